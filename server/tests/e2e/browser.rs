//! A real browser on a real cluster: Hello, Send, Subscribe and Sync over WebTransport and over a WebSocket.
//!
//! Needs Chromium (Debian's package `chromium`, or `SERIATIM_CHROMIUM`); without it the test says so and proves
//! nothing. The page is `browser/page.js`, written from docs/protocol.md alone. For WebTransport the browser gets no
//! flags, only the published hashes; for `wss://` it is told to take the development CA's certificate.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{Cluster, PATIENCE, wait_until_async};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const PAGE: &str = include_str!("browser/page.js");

fn chromium() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("SERIATIM_CHROMIUM") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("chromium")).find(|path| path.is_file())
}

/// A headless browser that we started, and its DevTools.
struct Browser {
    child: Child,
    devtools: WebSocketStream<TcpStream>,
    session: String,
    last: u64,
    _folder: tempfile::TempDir,
}

impl Browser {
    async fn open(chromium: &Path, page: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(chromium)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"])
            .args(["--ignore-certificate-errors", "--disable-background-networking", "about:blank"])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let noted = folder.path().join("DevToolsActivePort");
        let deadline = Instant::now() + PATIENCE;
        let (port, path) = loop {
            let text = std::fs::read_to_string(&noted).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n') {
                break (port.to_owned(), path.trim().to_owned());
            }
            assert!(Instant::now() < deadline, "Chromium starts");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
        let url = format!("ws://127.0.0.1:{port}{path}");
        let (devtools, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let mut browser = Self { child, devtools, session: String::new(), last: 0, _folder: folder };
        let target = browser.ask("Target.createTarget", json!({ "url": page })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        // Until then the page is an empty one.
        let expression = json!({ "expression": "typeof session", "returnByValue": true });
        let deadline = Instant::now() + PATIENCE;
        while browser.try_ask("Runtime.evaluate", expression.clone()).await["result"]["result"]["value"] != "function" {
            assert!(Instant::now() < deadline, "the page is loaded");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        browser
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        let answer = self.try_ask(method, params).await;
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// The answer with its result or error.
    async fn try_ask(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut request = json!({ "id": self.last, "method": method, "params": params });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.devtools.send(Message::text(request.to_string())).await.unwrap();
        loop {
            let message = tokio::time::timeout(PATIENCE, self.devtools.next()).await.expect("DevTools answer in time");
            let Message::Text(text) = message.unwrap().unwrap() else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == json!(self.last) {
                return answer;
            }
        }
    }

    /// The value of an expression, awaited.
    async fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.ask("Runtime.evaluate", params).await;
        assert!(answer["exceptionDetails"].is_null(), "in the page: {answer}");
        answer["result"]["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A web server with one empty page: browsers want a secure context, and loopback is one.
async fn serve_page() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let page = format!("<!doctype html><title>device</title><script>{PAGE}</script>");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n", page.len());
            let _ = stream.write_all(format!("{head}connection: close\r\n\r\n{page}").as_bytes()).await;
        }
    });
    format!("http://{address}/")
}

/// What the gateway publishes for WebTransport.
async fn published(cluster: &Cluster) -> Value {
    let pem = std::fs::read(&cluster.about.ca_certificate).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(cluster.gateway()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    stream.write_all(b"GET /.well-known/seriatim-wt HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_is_a_device_over_webtransport_and_websocket() {
    let Some(chromium) = chromium() else {
        eprintln!("SKIPPED, nothing is proved: no Chromium here (Debian's package `chromium`, or SERIATIM_CHROMIUM)");
        return;
    };
    let cluster = Cluster::start();
    let published = published(&cluster).await;
    let page = serve_page().await;
    let mut browser = Browser::open(&chromium, &page).await;
    // The page's own host, so that its origin may connect.
    let url = format!("https://127.0.0.1:{}{}", cluster.gateway().port(), published["path"].as_str().unwrap());
    let mut texts: Vec<String> = Vec::new();
    for way in ["webtransport", "websocket"] {
        let options = |token: String, body: &str| json!({ "url": url, "hashes": published["hashes"], "token": token, "peer": "bob", "body": body });
        texts.push(format!("hello over {way}"));
        let options_good = options(cluster.token("alice", 3600), texts.last().unwrap());
        let saw = browser.evaluate(&format!("session('{way}', {options_good})")).await;
        let expected = json!({
            "protocol": "seriatim-1",
            "user": "alice",
            "committed": saw["committed"],
            "duplicate": 1,
            "delivered": texts,
            "synced": texts,
            "pong": 7,
        });
        assert_eq!(saw, expected, "over {way}");
        assert!(saw["committed"].as_u64().unwrap() > 0);
        let refused = browser.evaluate(&format!("session('{way}', {})", options("nonsense".into(), "no"))).await;
        assert_eq!(refused, json!({ "protocol": "seriatim-1", "closed": 5 }), "over {way}");
        println!("over {way}: {saw}");
    }
    // Another certificate than the published one is not taken, and the SDK sees what the browser sent.
    let wrong = json!({ "url": url, "hashes": ["00".repeat(32)], "token": "", "peer": "bob", "body": "" });
    let error = browser.evaluate(&format!("session('webtransport', {wrong}).then(() => 'in', () => 'out')")).await;
    assert_eq!(error, json!("out"));
    let bob = cluster.device("bob", "laptop").await;
    wait_until_async("bob has both", async || bob.sync(None, 0).await.unwrap().entries.len() == 2).await;
}
