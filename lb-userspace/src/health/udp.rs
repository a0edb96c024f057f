//! The UDP check: a datagram and its answer.

use std::io;

use super::probe::{Outcome, Proof, is_local};
use super::way::Way;
use crate::model::Udp;

/// The largest datagram.
const MAX_BYTES: usize = 65535;

/// Sends and waits. Only the first answer counts. An error means that this host could not even ask.
pub(super) async fn ask(way: Way, udp: &Udp) -> io::Result<Outcome> {
    match exchange(way, udp).await {
        Ok(outcome) => Ok(outcome),
        Err(error) if is_local(&error) => Err(error),
        // An ICMP error came back: there is no need to wait for the time-out, nor for another one.
        Err(error) => Ok(match Outcome::of_error(&error) {
            refused @ Outcome { proof: Proof::Refused, .. } => {
                Outcome { proof: Proof::Unreachable, detail: "port unreachable".to_owned(), ..refused }
            }
            other => other,
        }),
    }
}

async fn exchange(way: Way, udp: &Udp) -> io::Result<Outcome> {
    let socket = way.datagrams().await?;
    socket.send(&udp.send).await?;
    let mut answer = vec![0; MAX_BYTES];
    let length = socket.recv(&mut answer).await?;
    let answer = answer.get(..length).unwrap_or_default();
    Ok(match &udp.expect {
        Some(expect) if !answer.windows(expect.len()).any(|window| window == expect) => {
            Outcome::failed(format!("{length} bytes without what is expected"))
        }
        _ => Outcome::passed(format!("{length} bytes")),
    })
}
