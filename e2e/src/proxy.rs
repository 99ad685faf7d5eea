//! A TCP proxy that cuts, silences or stalls connections after a number of bytes. It is independent of the protocol, so
//! that TLS passes unchanged until the fault.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// The direction in which bytes are sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the server, as the stream of a dump.
    FromServer,
    /// To the server, as the stream of a restore.
    ToServer,
}

/// The fault that the proxy injects. Bytes are counted over all connections, in one direction, since the proxy started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Everything passes.
    None,
    /// After that number of bytes, all connections are cut, and later ones are closed at once.
    CutAfter(Direction, u64),
    /// After that number of bytes, nothing passes in either direction, and no connection ends, as with a pulled cable.
    SilenceAfter(Direction, u64),
    /// After that number of bytes, each connection pauses in that direction, once, for this long.
    StallAfter(Direction, u64, Duration),
}

/// A running proxy; dropping it cuts all connections.
pub struct Proxy {
    address: SocketAddr,
    counters: Arc<Counters>,
    fault: watch::Sender<Fault>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counters {
    from_server: AtomicU64,
    to_server: AtomicU64,
}

impl Counters {
    fn of(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::FromServer => &self.from_server,
            Direction::ToServer => &self.to_server,
        }
    }

    fn is_cut(&self, fault: Fault) -> bool {
        matches!(fault, Fault::CutAfter(direction, limit) if self.of(direction).load(Ordering::SeqCst) >= limit)
    }

    fn is_silent(&self, fault: Fault) -> bool {
        matches!(fault, Fault::SilenceAfter(direction, limit) if self.of(direction).load(Ordering::SeqCst) >= limit)
    }
}

impl Proxy {
    /// Listens on a free port of the loopback interface, and forwards everything to `server`.
    pub async fn start(server: SocketAddr, fault: Fault) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to bind the proxy")?;
        let address = listener.local_addr()?;
        let counters = Arc::new(Counters::default());
        let (sender, receiver) = watch::channel(fault);
        let counting = counters.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                if !counting.is_cut(*receiver.borrow()) {
                    connections.spawn(pass(client, server, counting.clone(), receiver.clone()));
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, counters, fault: sender, task })
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of bytes that have passed in that direction so far.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.counters.of(direction).load(Ordering::SeqCst)
    }

    /// Replaces the fault; the counters continue.
    pub fn set_fault(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: SocketAddr, counters: Arc<Counters>, mut fault: watch::Receiver<Fault>) {
    let Ok(upstream) = TcpStream::connect(server).await else { return };
    let (client_reader, client_writer) = client.into_split();
    let (server_reader, server_writer) = upstream.into_split();
    // The end of one direction ends both.
    tokio::select! {
        () = copy(client_reader, server_writer, Direction::ToServer, &counters, fault.clone()) => {}
        () = copy(server_reader, client_writer, Direction::FromServer, &counters, fault.clone()) => {}
        // Cuts an idle connection as soon as the fault is set.
        () = async { let _cut = fault.wait_for(|fault| counters.is_cut(*fault)).await; } => {}
    }
}

async fn copy(
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    direction: Direction,
    counters: &Counters,
    fault: watch::Receiver<Fault>,
) {
    let counter = counters.of(direction);
    let mut buffer = vec![0; 16 * 1024];
    let mut stalled = false;
    loop {
        let wanted = match *fault.borrow() {
            Fault::CutAfter(at, limit) | Fault::SilenceAfter(at, limit) if at == direction => {
                let left = limit.saturating_sub(counter.load(Ordering::SeqCst));
                usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len())
            }
            _ => buffer.len(),
        };
        if counters.is_silent(*fault.borrow()) {
            std::future::pending::<()>().await;
        }
        if wanted == 0 {
            return;
        }
        let length = match reader.read(&mut buffer[..wanted]).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        if counters.is_silent(*fault.borrow()) {
            std::future::pending::<()>().await;
        }
        let passed = counter.fetch_add(length as u64, Ordering::SeqCst) + length as u64;
        let stall = match *fault.borrow() {
            Fault::StallAfter(at, limit, pause) if at == direction && passed >= limit && !stalled => Some(pause),
            _ => None,
        };
        if let Some(pause) = stall {
            stalled = true;
            tokio::time::sleep(pause).await;
        }
        if writer.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
