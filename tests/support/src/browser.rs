//! A real browser: headless Chromium, driven over WebDriver (W3C) by plain HTTP. Never touches a page but as its user
//! does, or by the scripts that a test names.

use crate::ports::Port;
use crate::process::{Process, eventually};
use crate::scratch::scratch;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

const START: Duration = Duration::from_secs(60);
/// The name by which WebDriver answers with an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How large a window is, and what it is touched with.
#[derive(Clone, Copy, Debug)]
pub enum Window {
    /// A window on a desk.
    Desk,
    /// A phone held upright.
    Phone,
}

/// An open browser; dropping it closes it.
pub struct Browser {
    client: Client,
    session: String,
    _driver: Process,
    _port: Port,
    _folder: TempDir,
}

impl Browser {
    /// Starts one.
    ///
    /// # Panics
    /// When Chromium or its driver is missing (Debian: chromium, chromium-driver), or does not start.
    #[must_use]
    pub fn start(window: Window) -> Self {
        let (folder, port) = (scratch("browser"), Port::take());
        let log = folder.path().join("driver.log");
        let args = [format!("--port={}", port.number)];
        // What Chromium keeps of itself, it keeps here.
        let home = [("HOME".to_owned(), folder.path().display().to_string())];
        let driver = Process::start("chromedriver", Path::new("chromedriver"), args, &home, &log);
        let client = Client::builder().timeout(START).build().expect("an HTTP client can be made");
        let base = format!("http://127.0.0.1:{}", port.number);
        eventually("chromedriver answers", START, || {
            assert!(driver.exit_status().is_none(), "chromedriver ended: {}", driver.tail(20));
            client.get(format!("{base}/status")).send().map_err(|e| e.to_string())
        });
        // By a pipe, Chromium ends with its driver, whatever ended that. As root it has no sandbox.
        let mut options = json!({ "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-pipe", "--window-size=1200,900"] });
        if matches!(window, Window::Phone) {
            let metrics = json!({ "width": 390, "height": 844, "pixelRatio": 2.0, "touch": true });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" }, "unhandledPromptBehavior": "accept" });
        let asked = client.post(format!("{base}/session")).json(&json!({ "capabilities": { "alwaysMatch": wanted } }));
        let answer: Value = asked.send().and_then(reqwest::blocking::Response::json).expect("chromedriver answers");
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("no session: {answer}"));
        let session = format!("{base}/session/{id}");
        Self { session, client, _driver: driver, _port: port, _folder: folder }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.client.post(format!("{}{path}", self.session)).json(body).send();
        let answer: Value =
            answer.and_then(reqwest::blocking::Response::json).unwrap_or_else(|e| panic!("POST {path}: {e}"));
        assert!(answer["value"]["error"].is_null(), "POST {path} {body}: {}", answer["value"]);
        answer["value"].clone()
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Loads the page anew.
    pub fn reload(&self) {
        self.post("/refresh", &json!({}));
    }

    /// What this script returns.
    #[must_use]
    pub fn eval(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until the script returns what the test takes for an answer.
    ///
    /// # Panics
    /// When it does not in time, with what it returned last.
    pub fn wait_for(&self, what: &str, script: &str, timeout: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
        eventually(what, timeout, || {
            let value = self.eval(script);
            if is_it(&value) { Ok(value) } else { Err(value.to_string()) }
        })
    }

    fn element(&self, selector: &str) -> String {
        let found = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        let id = found[ELEMENT].as_str().unwrap_or_else(|| panic!("{selector}: {found}"));
        format!("/element/{id}")
    }

    /// Clicks, or touches, where the element is.
    pub fn click(&self, selector: &str) {
        self.post(&format!("{}/click", self.element(selector)), &json!({}));
    }

    /// Types into an element; a file input takes paths, one a line.
    pub fn type_into(&self, selector: &str, text: &str) {
        self.post(&format!("{}/value", self.element(selector)), &json!({ "text": text }));
    }

    /// Has the browser do what only its own tools can (Chrome DevTools Protocol).
    pub fn devtools(&self, command: &str, parameters: &Value) {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    /// What the console said since it was asked last: errors of scripts, of the network and of the page's policy.
    #[must_use]
    pub fn console(&self) -> Vec<String> {
        let said = self.post("/se/log", &json!({ "type": "browser" }));
        let lines = said.as_array().into_iter().flatten();
        lines.filter_map(|line| line["message"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the browser's console\n{}", self.console_if_any());
        }
        if let Err(error) = self.client.delete(&self.session).send() {
            eprintln!("the browser was not closed: {error}");
        }
    }
}

impl Browser {
    /// For a panic: the browser may be gone.
    fn console_if_any(&self) -> String {
        let asked = self.client.post(format!("{}/se/log", self.session)).json(&json!({ "type": "browser" }));
        asked.send().and_then(reqwest::blocking::Response::text).unwrap_or_else(|error| error.to_string())
    }
}
