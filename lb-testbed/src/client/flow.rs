//! One flow: banner, records, end. Generic over the stream, so that liars can be tested without sockets.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Outcome;
use crate::record::{self, BANNER, RECORD};

/// How flows behave.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    /// Ids that a banner may hold.
    pub(super) known: BTreeSet<String>,
    /// Between two records; none: silent until asked to speak.
    pub(super) interval: Option<Duration>,
    /// An answer that takes longer is a stall.
    pub(super) stall: Duration,
}

/// What the flows of a group are asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// How often every flow has been asked to exchange a record beyond its interval.
    pub(super) speak: u64,
    /// Exchange a last record and end.
    pub(super) finish: bool,
}

/// What is seen of a flow while it runs.
pub(super) trait Observer {
    /// It was greeted by this backend.
    fn greeted(&mut self, backend: &str);
    /// It exchanged a record, which took so long; it has obeyed `speak` orders.
    fn exchanged(&mut self, took: Duration, spoken: u64);
}

/// Runs a connected flow to its end.
pub(super) async fn run(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    conn: u64,
    manner: &Manner,
    orders: &mut watch::Receiver<Order>,
    observer: &mut impl Observer,
) -> Outcome {
    match drive(stream, conn, manner, orders, observer).await {
        Ok(()) => Outcome::Ok,
        Err(broken) => broken,
    }
}

async fn drive(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    conn: u64,
    manner: &Manner,
    orders: &mut watch::Receiver<Order>,
    observer: &mut impl Observer,
) -> Result<(), Outcome> {
    let backend = greeting(stream, manner).await?;
    observer.greeted(&backend);
    let mut seq = 0;
    let mut spoken = 0;
    // Flows speak one after another, not all at once.
    let mut next = manner.interval.map(|interval| Instant::now() + interval.mul_f64(phase(conn)));
    loop {
        let mut byte = [0];
        let order = *orders.borrow_and_update();
        if order.speak == spoken && !order.finish {
            tokio::select! {
                read = stream.read(&mut byte) => return Err(unasked(read)),
                _ = orders.changed() => continue,
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
        let start = Instant::now();
        exchange(stream, record::record(conn, seq), manner.stall).await?;
        seq += 1;
        spoken = order.speak;
        next = manner.interval.map(|interval| start + interval);
        observer.exchanged(start.elapsed(), spoken);
        if order.finish {
            return finish(stream, manner.stall).await;
        }
    }
}

/// Reads the banner within the stall limit.
pub(super) async fn greeting(
    stream: &mut (impl AsyncRead + Unpin),
    manner: &Manner,
) -> Result<String, Outcome> {
    let mut banner = [0; BANNER];
    match timeout(manner.stall, stream.read_exact(&mut banner)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return Err(Outcome::NotConnected),
    }
    let id = record::id(&banner);
    if manner.known.contains(&id) { Ok(id) } else { Err(Outcome::WrongBanner) }
}

/// Sends a record and waits for it to come back.
pub(super) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    record: [u8; RECORD],
    stall: Duration,
) -> Result<(), Outcome> {
    let answer = async {
        let mut answer = [0; RECORD];
        stream.write_all(&record).await?;
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    match timeout(stall, answer).await {
        Ok(Ok(answer)) if answer == record => Ok(()),
        Ok(Ok(_)) => Err(Outcome::BadRecord),
        Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Err(Outcome::Eof),
        Ok(Err(_)) => Err(Outcome::Reset),
        Err(_) => Err(Outcome::Stalled),
    }
}

/// Our FIN, then the other end's.
async fn finish(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), stall: Duration) -> Result<(), Outcome> {
    let end = async {
        stream.shutdown().await?;
        stream.read(&mut [0]).await
    };
    match timeout(stall, end).await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(_)) => Err(Outcome::BadRecord),
        Ok(Err(_)) => Err(Outcome::Reset),
        Err(_) => Err(Outcome::Stalled),
    }
}

/// What it means that something came without having been asked for.
fn unasked(read: std::io::Result<usize>) -> Outcome {
    match read {
        Ok(0) => Outcome::Eof,
        Ok(_) => Outcome::BadRecord,
        Err(error) if error.kind() == ErrorKind::TimedOut => Outcome::Stalled,
        Err(_) => Outcome::Reset,
    }
}

/// Spreads connection numbers over 0..1 (the golden ratio's multiples are equidistributed).
fn phase(conn: u64) -> f64 {
    (conn as f64 * 0.618_033_988_749_895).fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Observer for Nobody {
        fn greeted(&mut self, _: &str) {}
        fn exchanged(&mut self, _: Duration, _: u64) {}
    }

    /// A flow against `server`, finished after its first record.
    async fn judge<F: Future<Output = ()> + Send + 'static>(
        server: impl FnOnce(tokio::io::DuplexStream) -> F,
    ) -> Outcome {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(server(theirs));
        let manner = Manner {
            known: BTreeSet::from(["b1".to_owned()]),
            interval: Some(Duration::from_millis(10)),
            stall: Duration::from_secs(5),
        };
        let (_orders, mut receiver) = watch::channel(Order { speak: 1, finish: false });
        let silent_end = Duration::from_secs(60);
        let mut nobody = Nobody;
        let run = run(&mut ours, 7, &manner, &mut receiver, &mut nobody);
        timeout(silent_end, run).await.unwrap_or(Outcome::Open)
    }

    async fn greet(stream: &mut tokio::io::DuplexStream) -> [u8; RECORD] {
        stream.write_all(&record::banner("b1")).await.unwrap();
        let mut record = [0; RECORD];
        stream.read_exact(&mut record).await.unwrap();
        record
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_is_a_stall() {
        let outcome = judge(async |mut stream| {
            greet(&mut stream).await;
            std::future::pending::<()>().await;
        });
        assert_eq!(outcome.await, Outcome::Stalled);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_bit_is_a_bad_record() {
        let outcome = judge(async |mut stream| {
            let mut record = greet(&mut stream).await;
            record[3] ^= 1;
            stream.write_all(&record).await.unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(outcome.await, Outcome::BadRecord);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_was_not_ours_is_told() {
        let outcome = judge(async |mut stream| {
            let record = greet(&mut stream).await;
            stream.write_all(&record).await.unwrap();
        });
        assert_eq!(outcome.await, Outcome::Eof);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_and_silence_at_the_door_are_told() {
        let stranger = judge(async |mut stream| {
            stream.write_all(&record::banner("b2")).await.unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(stranger.await, Outcome::WrongBanner);
        let silent = judge(async |stream| {
            let _open = stream;
            std::future::pending::<()>().await;
        });
        assert_eq!(silent.await, Outcome::NotConnected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_faithful_server_stays_open() {
        let outcome = judge(async |mut stream| {
            let mut record = greet(&mut stream).await;
            loop {
                stream.write_all(&record).await.unwrap();
                stream.read_exact(&mut record).await.unwrap();
            }
        });
        assert_eq!(outcome.await, Outcome::Open);
    }
}
