//! A small OpenAI-compatible server that behaves as a test tells it to: streaming or whole, slow, cut off, garbled, refusing.
//! Never leaves this process.

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::watch;

/// How it answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    /// These words, one an event where it is asked to stream.
    Words(&'static [&'static str]),
    /// The first word, and the others once it is told to go on.
    Held(&'static [&'static str]),
    /// A word, then the connection breaks.
    Cut,
    /// A word, then nothing more.
    Silent,
    /// Nothing that can be read.
    Garbage,
    /// An answer without end.
    Endless,
    /// A refusal.
    Status(u16),
}

/// What it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The request's body.
    pub(crate) body: Value,
    /// Its `Authorization`.
    pub(crate) authorization: Option<String>,
}

struct State {
    mode: Mutex<Mode>,
    asked: Mutex<Vec<Asked>>,
    go: watch::Sender<bool>,
}

/// A running server; stopped when it is dropped.
pub(crate) struct OpenAi {
    state: Arc<State>,
    endpoint: String,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl OpenAi {
    /// Starts it on a free port.
    pub(crate) fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let endpoint = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let state = Arc::new(State { mode: Mutex::new(mode), asked: Mutex::default(), go: watch::channel(false).0 });
        let (served, (tell, told)) = (Arc::clone(&state), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new()
                        .app_data(web::Data::from(Arc::clone(&served)))
                        .route("/v1/chat/completions", web::post().to(complete))
                });
                let server =
                    server.workers(1).disable_signals().shutdown_timeout(0).listen(listener).expect("it listens").run();
                tell.send(server.handle()).expect("somebody waits for it");
                server.await.expect("it serves");
            });
        });
        let handle = told.recv().expect("it has started");
        Self { state, endpoint, handle, thread: Some(thread) }
    }

    /// `endpoint` of the step.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Answers like this from now on.
    pub(crate) fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Lets held answers go on.
    pub(crate) fn go(&self) {
        self.state.go.send_replace(true);
    }

    /// All that it was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for OpenAi {
    fn drop(&mut self) {
        // The command is sent when the future is made; the server's end is waited for below.
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the server of the test had panicked");
        }
    }
}

fn event(words: &str, finish: Option<&str>) -> Bytes {
    let event = json!({ "choices": [{ "index": 0, "delta": { "content": words }, "finish_reason": finish }] });
    Bytes::from(format!("data: {event}\n\n"))
}

async fn complete(state: web::Data<State>, request: HttpRequest, body: web::Json<Value>) -> HttpResponse {
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let is_stream = body["stream"] == true;
    state.asked.lock().unwrap_or_else(PoisonError::into_inner).push(Asked { body: body.into_inner(), authorization });
    let mode = state.mode.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut response = HttpResponse::Ok();
    response.content_type("text/event-stream");
    match mode {
        Mode::Status(status) => {
            let status = actix_web::http::StatusCode::from_u16(status).expect("a status");
            HttpResponse::build(status).body("{\"error\": \"as the test wants it\"}")
        }
        Mode::Garbage => response.body("data: <html>\n\n"),
        Mode::Words(words) if !is_stream => {
            let message = json!({ "role": "assistant", "content": words.concat() });
            HttpResponse::Ok().json(json!({ "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }] }))
        }
        Mode::Words(words) => {
            let end = [event("", Some("stop")), Bytes::from("data: [DONE]\n\n")];
            let all = words.iter().map(|word| event(word, None)).chain(end);
            response.streaming(stream::iter(all.map(Ok::<_, io::Error>)))
        }
        Mode::Held(words) => {
            let mut go = state.go.subscribe();
            let first = stream::iter([Ok::<_, io::Error>(event(words[0], None))]);
            let rest = stream::once(async move {
                go.wait_for(|go| *go).await.expect("the test tells");
                Ok([event(&words[1..].concat(), Some("stop")), Bytes::from("data: [DONE]\n\n")].concat().into())
            });
            response.streaming(first.chain(rest))
        }
        Mode::Cut => {
            let broken = io::Error::new(io::ErrorKind::ConnectionReset, "as the test wants it");
            response.streaming(stream::iter([Ok(event("half", None)), Err(broken)]))
        }
        Mode::Silent => {
            response.streaming(stream::iter([Ok::<_, io::Error>(event("half", None))]).chain(stream::pending()))
        }
        Mode::Endless => {
            response.streaming(stream::repeat_with(|| Ok::<_, io::Error>(event(&"word ".repeat(1_000), None))))
        }
    }
}
