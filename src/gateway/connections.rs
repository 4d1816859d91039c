//! Cuts connections that neither have a request served nor send one in time. Never cuts one whose request is being
//! served: bodies, waits and streams have limits of their own.
//!
//! actix-http 3.20 times a connection's first head and its silence between requests; a later head that trickles in is
//! timed by neither, nor is a client that does not read its answer.

use actix_web::Error;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use parking_lot::Mutex;
use std::any::Any;
use std::net::{self, Shutdown};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How often idle connections are looked for, at most.
const SWEEP: Duration = Duration::from_secs(1);

/// The open connections of one gateway.
pub(super) struct Connections {
    open: Mutex<Vec<Weak<Connection>>>,
    idle_max: Duration,
}

/// One of them.
struct Connection {
    /// A second handle to its socket, by which it is shut from outside.
    socket: net::TcpStream,
    state: Mutex<State>,
}

enum State {
    /// So many requests are being served.
    Busy(usize),
    /// None has been since then.
    Idle(Instant),
}

/// A request that is being served, until the last byte of its answer was handed over.
struct Serving(Arc<Connection>);

impl Connections {
    /// None yet; each may be without a request for so long.
    pub(super) fn new(idle_max: Duration) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), idle_max })
    }

    /// Takes a new connection in.
    pub(super) fn opened(&self, stream: &dyn Any, data: &mut Extensions) {
        let Some(stream) = stream.downcast_ref::<TcpStream>() else { return };
        match stream.as_fd().try_clone_to_owned() {
            Ok(socket) => {
                let connection = Connection { socket: socket.into(), state: Mutex::new(State::Idle(Instant::now())) };
                let connection = Arc::new(connection);
                self.open.lock().push(Arc::downgrade(&connection));
                data.insert(connection);
            }
            Err(error) => tracing::warn!(%error, "a connection is not watched"),
        }
    }

    /// Looks for idle connections for as long as anybody holds this.
    pub(super) async fn watch(this: Weak<Self>) {
        while let Some(connections) = this.upgrade() {
            connections.sweep(Instant::now());
            let pause = SWEEP.min(connections.idle_max / 4).max(Duration::from_millis(1));
            drop(connections);
            tokio::time::sleep(pause).await;
        }
    }

    fn sweep(&self, now: Instant) {
        let mut idle = Vec::new();
        self.open.lock().retain(|connection| {
            let Some(connection) = connection.upgrade() else { return false };
            let is_idle =
                matches!(*connection.state.lock(), State::Idle(since) if now.duration_since(since) >= self.idle_max);
            if is_idle {
                idle.push(connection);
            }
            !is_idle
        });
        for connection in idle {
            // Where the client was faster there is nothing to shut.
            if connection.socket.shutdown(Shutdown::Both).is_ok() {
                tracing::debug!("cut a connection that sent no request in time");
            }
        }
    }
}

impl Serving {
    fn begin(connection: &Arc<Connection>) -> Self {
        let mut state = connection.state.lock();
        *state = State::Busy(if let State::Busy(count) = *state { count + 1 } else { 1 });
        drop(state);
        Self(Arc::clone(connection))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        *state = match *state {
            State::Busy(count @ 2..) => State::Busy(count - 1),
            _ => State::Idle(Instant::now()),
        };
    }
}

/// A response's body that knows when it was handed over.
struct Served {
    body: BoxBody,
    _serving: Option<Serving>,
}

impl MessageBody for Served {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

/// Middleware: a request keeps its connection from being cut.
pub(super) async fn keep(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let serving = request.request().conn_data::<Arc<Connection>>().map(Serving::begin);
    let response = next.call(request).await?.map_into_boxed_body();
    Ok(response.map_body(|_, body| BoxBody::new(Served { body, _serving: serving })))
}
