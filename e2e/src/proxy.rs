//! A TCP proxy that breaks what passes through it: it cuts after a number of bytes, falls silent, or stalls. It knows no protocol, so
//! TLS passes unharmed until it is cut.

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

/// Which way bytes go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// What the server sends: the stream of a dump.
    FromServer,
    /// What the client sends: the stream of a restore.
    ToServer,
}

/// What goes wrong, counted over all bytes of that way since the proxy started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Once so many bytes have passed, every connection is cut, and later ones are refused.
    CutAfter(Way, u64),
    /// Once so many bytes have passed, nothing passes any way, and no connection ends: a cable that was pulled.
    SilenceAfter(Way, u64),
    /// Once so many bytes have passed, nothing passes that way for so long, once a connection.
    StallAfter(Way, u64, Duration),
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
    fn of(&self, way: Way) -> &AtomicU64 {
        match way {
            Way::FromServer => &self.from_server,
            Way::ToServer => &self.to_server,
        }
    }

    fn is_cut(&self, fault: Fault) -> bool {
        matches!(fault, Fault::CutAfter(way, limit) if self.of(way).load(Ordering::SeqCst) >= limit)
    }

    fn is_silent(&self, fault: Fault) -> bool {
        matches!(fault, Fault::SilenceAfter(way, limit) if self.of(way).load(Ordering::SeqCst) >= limit)
    }
}

impl Proxy {
    /// Listens on a free port of the loopback and passes everything on to `server`.
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

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many bytes have gone that way so far.
    pub fn passed(&self, way: Way) -> u64 {
        self.counters.of(way).load(Ordering::SeqCst)
    }

    /// Changes what goes wrong from now on.
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
    // Whichever side ends first takes the other with it: a cut is a cut in both directions.
    tokio::select! {
        () = copy(client_reader, server_writer, Way::ToServer, &counters, fault.clone()) => {}
        () = copy(server_reader, client_writer, Way::FromServer, &counters, fault.clone()) => {}
        // A cut that is asked for while nothing moves takes place at once.
        () = async { let _gone = fault.wait_for(|fault| counters.is_cut(*fault)).await; } => {}
    }
}

async fn copy(
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    way: Way,
    counters: &Counters,
    fault: watch::Receiver<Fault>,
) {
    let counter = counters.of(way);
    let mut buffer = vec![0; 16 * 1024];
    let mut stalled = false;
    loop {
        let wanted = match *fault.borrow() {
            Fault::CutAfter(at, limit) | Fault::SilenceAfter(at, limit) if at == way => {
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
            Fault::StallAfter(where_to, limit, pause) if where_to == way && passed >= limit && !stalled => Some(pause),
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
