//! A small real HTTP server for tests of what calls others: it answers as a test says, well, badly or never, and remembers
//! what it was asked.

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures::future::{BoxFuture, Shared};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// Its headers, names in lower case; the last value of each.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The body as JSON, `null` where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header, empty where it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A whole answer: status, headers, body.
    Whole(u16, Vec<(String, String)>, Vec<u8>),
    /// An answer that waits for something.
    When(Shared<BoxFuture<'static, ()>>, Box<Reply>),
    /// Nothing, for as long as the server lives.
    Hang,
}

impl Reply {
    /// An answer in JSON.
    #[must_use]
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::Whole(status, vec![("content-type".into(), "application/json".into())], body.to_string().into_bytes())
    }

    /// An answer without a body.
    #[must_use]
    pub fn bare(status: u16) -> Self {
        Self::Whole(status, Vec::new(), Vec::new())
    }
}

/// A running server; dropping it closes every connection.
pub struct WebServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    handle: ServerHandle,
    thread: Option<thread::JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WebServer {
    /// Starts one on a free port of 127.0.0.1.
    #[must_use]
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").expect("a port is free"), answer)
    }

    /// Starts one on a listener that the test has made, e.g. to come back on the same port.
    #[must_use]
    pub fn start_on(listener: TcpListener, answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().expect("it is bound");
        let (asked, answer) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(answer));
        let (tell, told) = channel();
        let seen = Arc::clone(&asked);
        let thread = thread::spawn(move || {
            let serve = async move {
                let server = HttpServer::new(move || {
                    let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                    App::new().app_data(web::PayloadConfig::new(64 << 20)).default_service(web::to(
                        move |request: HttpRequest, body: web::Bytes| {
                            let asked = read(&request, &body);
                            lock(&seen).push(asked.clone());
                            let reply = answer(&asked);
                            async move { write(reply).await }
                        },
                    ))
                });
                let server = server.workers(1).disable_signals().shutdown_timeout(0);
                let server = server.listen(listener).expect("the listener can be used").run();
                tell.send(server.handle()).expect("the test waits for it");
                server.await.expect("the server runs");
            };
            actix_web::rt::System::new().block_on(serve);
        });
        let handle = told.recv().expect("the server starts");
        Self { address, asked, handle, thread: Some(thread) }
    }

    /// A server that answers every connection with these bytes, whatever they are, and closes it.
    #[must_use]
    pub fn raw(bytes: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        // Ends with the process.
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 4096];
                // A client that has gone, or does not want the rest, is none of the test's business.
                if stream.read(&mut request).is_ok() {
                    drop(stream.write_all(bytes));
                }
            }
        });
        url
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything it was asked so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.asked).clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        let stop = self.handle.stop(false);
        actix_web::rt::System::new().block_on(stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a test's HTTP server panicked");
        }
    }
}

fn read(request: &HttpRequest, body: &web::Bytes) -> Asked {
    let headers = request.headers().iter();
    let header = |value: &actix_web::http::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Asked {
        method: request.method().to_string(),
        path: request.uri().to_string(),
        headers: headers.map(|(name, value)| (name.as_str().to_owned(), header(value))).collect(),
        body: body.to_vec(),
    }
}

async fn write(mut reply: Reply) -> HttpResponse {
    while let Reply::When(ready, then) = reply {
        ready.await;
        reply = *then;
    }
    match reply {
        Reply::When(..) => unreachable!("it was waited for"),
        Reply::Hang => std::future::pending().await,
        Reply::Whole(status, headers, body) => {
            let mut answer = HttpResponse::build(StatusCode::from_u16(status).expect("a test's status is one"));
            for (name, value) in headers {
                answer.insert_header((name, value));
            }
            answer.body(body)
        }
    }
}
