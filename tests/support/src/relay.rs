//! A TCP relay on a port of its own: what a client sees of a server that dies and comes back under the same address. Never
//! looks at what passes.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// Passes connections on to a server that can be changed; ends with the test process.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    server: Mutex<Option<String>>,
    open: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn server(&self) -> Option<String> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Relay {
    /// Listens, and passes on to `server` (`HOST:PORT`).
    ///
    /// # Panics
    /// When there is no port.
    #[must_use]
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { server: Mutex::new(Some(server.to_owned())), open: Mutex::default() });
        let serves = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client of a server that is away sees its connection close.
                if let Some(server) = serves.server().and_then(|server| TcpStream::connect(server).ok()) {
                    pass(client, server, &serves).expect("a socket can be cloned");
                }
            }
        });
        Self { address, shared }
    }

    /// A URL of it; `path` begins with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Closes every connection, and passes new ones on to this server; to none where there is none.
    pub fn switch(&self, server: Option<&str>) {
        *self.shared.server.lock().unwrap_or_else(PoisonError::into_inner) = server.map(str::to_owned);
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that has ended by itself is closed already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn pass(client: TcpStream, server: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
    open.extend([client.try_clone()?, server.try_clone()?]);
    drop(open);
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        std::thread::spawn(move || {
            // However a direction ends, the other side is told; why it ended is of no interest.
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Write));
        });
    }
    Ok(())
}
