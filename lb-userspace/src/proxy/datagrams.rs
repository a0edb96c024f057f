//! UDP on one worker: a socket on the listen address, and for each client a socket of its own to its backend.
//!
//! The kernel spreads clients over the workers by their addresses, so all datagrams of one arrive at the same
//! worker. Nothing waits to be sent: a datagram that cannot go on at once is dropped and counted, as a router
//! would do, so memory is bounded by the kernel's queues and one client cannot hold up another.

mod client;

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use rustix::net::{SendFlags, sendto};
use tokio::net::UdpSocket;
use tokio::sync::{Barrier, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::yield_now;
use tokio::time::sleep_until;
use tokio_util::task::TaskTracker;

use crate::model::Cut;

use super::counters::Shard;
use super::listener::Desired;
use super::target::Target;
use super::worker::Worker;
use client::Client;

/// Clients of one listen address at a time, over all workers. Each takes one of the host's ephemeral ports, of
/// which there are 28,232 unless net.ipv4.ip_local_port_range says otherwise.
const MOST_CLIENTS: usize = 16 << 10;

/// Backends that are tried for one datagram.
const TRIES: usize = 3;

/// Datagrams that one socket may have read before others get their turn.
const TURN: usize = 32;

/// The longest datagram.
const LONGEST: usize = 64 << 10;

/// What the sockets of one listen address share.
#[derive(Debug)]
pub(super) struct Group {
    /// For further clients.
    room: Arc<Semaphore>,
    /// Met by every worker whose last client is gone. A socket that left early would change which worker the
    /// kernel hands the others' clients to.
    all_idle: Barrier,
}

impl Group {
    /// For `workers` sockets.
    pub(super) fn new(workers: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(MOST_CLIENTS)), all_idle: Barrier::new(workers) }
    }
}

/// Takes clients until told to close, then serves those that are there until the last of the group is gone, or
/// until the deadline. `open` is dropped when no new ones are taken.
pub(super) async fn serve(
    (socket, group): (std::net::UdpSocket, Arc<Group>),
    target: Target,
    mut desired: watch::Receiver<Desired>,
    worker: Rc<Worker>,
    open: Sender<Infallible>,
) {
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, worker = worker.index, "a listener cannot be watched");
            return;
        }
    };
    let relay = Rc::new(Relay {
        socket,
        group,
        target: RefCell::new(target),
        clients: RefCell::default(),
        tasks: TaskTracker::new(),
        buffer: RefCell::new(vec![0; LONGEST]),
        worker,
    });
    relay.take_clients(&mut desired).await;
    drop(open);

    relay.tasks.close();
    let last_is_gone = async {
        relay.tasks.wait().await;
        relay.group.all_idle.wait().await;
    };
    tokio::select! {
        () = last_is_gone => {}
        () = deadline(&mut desired) => {}
        () = relay.serve_clients() => {}
    }
    relay.target.borrow().cut(Cut::ALL);
    relay.tasks.wait().await;
}

/// Waits until what is left is to be cut.
async fn deadline(desired: &mut watch::Receiver<Desired>) {
    loop {
        let at = match *desired.borrow_and_update() {
            Desired::Closing(end) => end.deadline,
            Desired::Open(_) => return,
        };
        tokio::select! {
            () = sleep_until(at) => return,
            Ok(()) = desired.changed() => {}
        }
    }
}

/// One worker's socket of a listen address, and its clients.
#[derive(Debug)]
struct Relay {
    socket: UdpSocket,
    group: Arc<Group>,
    target: RefCell<Target>,
    clients: RefCell<HashMap<SocketAddr, Rc<Client>>>,
    /// One for each client. Closed: no more of them.
    tasks: TaskTracker,
    /// For the one datagram that is on its way through. Never borrowed across an await.
    buffer: RefCell<Vec<u8>>,
    worker: Rc<Worker>,
}

impl Relay {
    /// Until told to close.
    async fn take_clients(self: &Rc<Self>, desired: &mut watch::Receiver<Desired>) {
        loop {
            tokio::select! {
                biased;
                changed = desired.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.receive() => {}
            }
            // Looked at before the next datagram: who comes after a change meets the changed backends.
            match &*desired.borrow_and_update() {
                Desired::Open(membership) => self.target.borrow_mut().update(membership),
                Desired::Closing(_) => return,
            }
        }
    }

    /// For ever.
    async fn serve_clients(self: &Rc<Self>) {
        loop {
            self.receive().await;
        }
    }

    /// Waits for datagrams of clients and sends some of them on.
    async fn receive(self: &Rc<Self>) {
        if let Err(error) = self.socket.readable().await {
            tracing::error!(%error, worker = self.worker.index, "a listener is no longer watched");
            std::future::pending::<()>().await;
        }
        for _ in 0..TURN {
            let mut buffer = self.buffer.borrow_mut();
            match self.socket.try_recv_from(&mut buffer) {
                Ok((length, client)) => self.forward(client, buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "nothing received");
                    break;
                }
            }
        }
        yield_now().await;
    }

    /// Sends a client's datagram on, or drops it and counts that.
    fn forward(self: &Rc<Self>, address: SocketAddr, bytes: &[u8]) {
        let shard = self.worker.index;
        let mut tried = Vec::new();
        while let Some(client) = self.client(address, &mut tried) {
            match client.send(bytes) {
                Ok(()) => {
                    self.target.borrow().counters.shard(shard).sent(bytes.len());
                    client.backend.counters.shard(shard).sent(bytes.len());
                    return;
                }
                Err(error) if client::is_of_datagram(&error) => {
                    tracing::debug!(client = %address, %error, "a datagram is dropped");
                    break;
                }
                // An ICMP error about an earlier one. This one has not been sent: it starts anew.
                Err(error) => {
                    client.fail(&error, shard);
                    tried.push(client.backend.address);
                }
            }
        }
        self.target.borrow().counters.shard(shard).fail();
    }

    /// The client of an address; a new one where there is none, and room for it.
    fn client(self: &Rc<Self>, address: SocketAddr, tried: &mut Vec<SocketAddr>) -> Option<Rc<Client>> {
        if let Some(known) = self.clients.borrow().get(&address).filter(|client| !client.is_cut()) {
            return Some(Rc::clone(known));
        }
        if self.tasks.is_closed() {
            return None;
        }
        let room = Arc::clone(&self.group.room).try_acquire_owned().ok()?;
        let descriptor = Arc::clone(&self.worker.sockets).try_acquire_owned().ok()?;
        while tried.len() < TRIES {
            let choice = self.target.borrow_mut().pick(address, tried)?;
            match Client::connect(address, &choice) {
                Ok(client) => {
                    let client = Rc::new(client);
                    self.clients.borrow_mut().insert(address, Rc::clone(&client));
                    self.tasks.spawn_local(Rc::clone(self).attend(Rc::clone(&client), [room, descriptor]));
                    return Some(client);
                }
                Err(error) => {
                    tracing::debug!(backend = %choice.backend.address, %error, "no socket for a client");
                    choice.backend.counters.shard(self.worker.index).fail();
                    tried.push(choice.backend.address);
                }
            }
        }
        None
    }

    /// Serves a client until it has been silent for too long, its backend fails or is cut.
    async fn attend(self: Rc<Self>, client: Rc<Client>, _room: [OwnedSemaphorePermit; 2]) {
        let shard = self.worker.index;
        let counters = self.target.borrow().counters.clone();
        let _open = [counters.shard(shard).open(), client.backend.counters.shard(shard).open()];
        let entry = self.worker.registry.enter(self.target.borrow().listen(), client.address);
        entry.connected(client.backend.address);
        tokio::select! {
            biased;
            () = client.cut() => {}
            () = client.silence() => {}
            error = self.pass_replies(&client, counters.shard(shard)) => client.fail(&error, shard),
        }
        let mut clients = self.clients.borrow_mut();
        // It may have come back already, with another socket.
        if clients.get(&client.address).is_some_and(|known| Rc::ptr_eq(known, &client)) {
            clients.remove(&client.address);
        }
    }

    /// Sends replies to a client, from the listen address, until the socket to its backend meets an error.
    async fn pass_replies(&self, client: &Client, counters: &Shard) -> io::Error {
        loop {
            if let Err(error) = client.ready().await {
                return error;
            }
            for _ in 0..TURN {
                let mut buffer = self.buffer.borrow_mut();
                let bytes = match client.receive(&mut buffer) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return error,
                };
                match sendto(&self.socket, bytes, SendFlags::DONTWAIT, &client.address) {
                    Ok(_) => {
                        counters.replied(bytes.len());
                        client.backend.counters.shard(self.worker.index).replied(bytes.len());
                    }
                    Err(error) => {
                        tracing::debug!(client = %client.address, %error, "a reply is dropped");
                        counters.fail();
                    }
                }
            }
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb_common::hash::Seed;
    use tokio::task::LocalSet;
    use tokio::time::timeout;

    use crate::data_plane::proxy::ProxyService;
    use crate::model::{Affinity, Cut, Listen, Member, Protocol, Scheduler};
    use crate::proxy::bind::{Socket, bind};
    use crate::proxy::counters::Counters;
    use crate::proxy::membership::Membership;
    use crate::proxy::pools::Pools;
    use crate::proxy::ports::Complaints;
    use crate::proxy::registry::Registry;

    use super::super::listener::End;
    use super::*;

    const SEED: Seed = [1, 2];
    const WAIT: Duration = Duration::from_secs(20);

    /// With room for two clients, the third is refused for as long as both are there.
    #[tokio::test]
    async fn who_finds_no_room_is_refused_and_nobody_is_evicted() {
        let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let member = Member { address: backend.local_addr().unwrap(), weight: 1, cut: Cut::NONE };
        let service = ProxyService {
            name: "dns".into(),
            pool: "dns".into(),
            scheduler: Scheduler::RoundRobin,
            affinity: Affinity::None,
            table_size: 13,
            members: vec![member],
            connect_timeout: WAIT,
            idle_timeout: WAIT,
            closing_timeout: WAIT,
        };
        let listen = Listen { address: "127.0.0.1:0".parse().unwrap(), protocol: Protocol::Udp };
        let membership = Arc::new(Membership::new(&[], listen, &service, SEED, 1).unwrap());
        let Some(Socket::Udp(socket, group)) = bind(listen, 1).unwrap().pop() else { panic!("not UDP") };
        let vip = socket.local_addr().unwrap();
        let counters = Counters::new(1);
        let target = Target::new(Arc::clone(&membership), counters.clone(), 0);
        let sockets = Arc::new(Semaphore::new(2));
        let worker = Rc::new(Worker {
            index: 0,
            pools: Pools::new(0),
            splice: false,
            sockets,
            registry: Registry::default(),
            refusals: tokio::sync::mpsc::channel(1).0,
            complaints: Complaints::default(),
        });
        let (desired, receiver) = watch::channel(Desired::Open(membership));
        let (open, _closed) = std::sync::mpsc::channel();

        let talk = async {
            let mut buffer = [0; 16];
            let mut clients = Vec::new();
            for number in 0..3 {
                let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                client.connect(vip).await.unwrap();
                client.send(&[number]).await.unwrap();
                clients.push(client);
            }
            for number in [0, 1] {
                let (_, from) = timeout(WAIT, backend.recv_from(&mut buffer)).await.unwrap().unwrap();
                assert_eq!(buffer[0], number);
                backend.send_to(&[number], from).await.unwrap();
                timeout(WAIT, clients[usize::from(number)].recv(&mut buffer)).await.unwrap().unwrap();
            }
            while counters.sum().failures == 0 {
                yield_now().await;
            }
            assert_eq!((counters.sum().connections, counters.sum().failures), (2, 1));
            desired.send_replace(Desired::Closing(End::now()));
        };
        let serve = serve((socket, group), target, receiver, worker, open);
        LocalSet::new().run_until(async { tokio::join!(serve, talk) }).await;
        assert_eq!(counters.sum().connections, 0);
    }
}
