//! A real cluster under a test: a playground of real processes in a folder of its own.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part, and fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use seriatim_client::{Client, ClientBuilder};
use seriatim_proto::ids::{TenantId, UserId};
use seriatim_proto::logic::Scopes;
use seriatim_proto::playground::{
    ControlRequest, ControlResponse, FILE, NodeState, Playground, PlaygroundRole, SOCKET,
};
use seriatim_proto::token::Minter;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub const SERIATIM: &str = env!("CARGO_BIN_EXE_seriatim");

/// A running playground; ends with the test.
pub struct Cluster {
    folder: PathBuf,
    /// of the playground, beside its folder
    arguments: Vec<String>,
    /// `None`: the folder is somebody else's
    _own: Option<tempfile::TempDir>,
    child: Child,
    stdin: Option<ChildStdin>,
    pub about: Playground,
    minter: Minter,
}

impl Cluster {
    /// Starts one and waits until it serves.
    pub fn start() -> Cluster {
        let own = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start_in(own.path().to_owned());
        cluster._own = Some(own);
        cluster
    }

    /// One whose processes speak without TLS, so that a test may speak with them as it likes.
    pub fn start_plaintext() -> Cluster {
        let own = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start_with(own.path().to_owned(), &["--insecure-plaintext"]);
        cluster._own = Some(own);
        cluster
    }

    /// In this folder.
    pub fn start_in(folder: PathBuf) -> Cluster {
        Cluster::start_with(folder, &[])
    }

    /// In this folder, with arguments of the playground.
    pub fn start_with(folder: PathBuf, arguments: &[&str]) -> Cluster {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (child, stdin) = spawn(&folder, &arguments);
        let about: Playground = serde_json::from_slice(&std::fs::read(folder.join(FILE)).unwrap()).unwrap();
        let minter = Minter::from_private_pem(&std::fs::read(&about.token_private_key).unwrap()).unwrap();
        Cluster { folder, arguments, _own: None, child, stdin: Some(stdin), about, minter }
    }

    /// Stops everything in order and starts it again on the same data.
    pub fn restart(&mut self) {
        drop(self.stdin.take());
        wait_until("the playground ends", || self.child.try_wait().unwrap().is_some());
        let (child, stdin) = spawn(&self.folder, &self.arguments);
        (self.child, self.stdin) = (child, Some(stdin));
    }

    /// Ends it as its parent would, and by a signal at the same time; how it ended, and what its nodes wrote.
    pub fn stop_twice(&mut self) -> (std::process::ExitStatus, String) {
        signal(self.child.id(), rustix::process::Signal::TERM);
        drop(self.stdin.take());
        let mut status = None;
        wait_until("the playground ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let logs = self.about.nodes.iter().map(|node| self.folder.join("logs").join(format!("{}.log", node.name)));
        (status.unwrap(), logs.map(|log| std::fs::read_to_string(log).unwrap()).collect())
    }

    pub fn data(&self) -> &Path {
        &self.folder
    }

    /// A token for `user`, good for `seconds` (negative: it ended so long ago).
    pub fn token(&self, user: &str, seconds: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let end = now.checked_add_signed(seconds).unwrap();
        self.minter.mint(TenantId(1), &UserId::new(user).unwrap(), end).unwrap()
    }

    /// A token for `user` of another tenant.
    pub fn token_of(&self, tenant: u32, user: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.minter.mint(TenantId(tenant), &UserId::new(user).unwrap(), now + 3600).unwrap()
    }

    /// A token for the sequence service and nothing else, of this tenant.
    pub fn sequence_token(&self, tenant: u32) -> String {
        self.token_for(tenant, "counting", Scopes::SEQUENCE)
    }

    /// The same, for so many seconds.
    pub fn sequence_token_for(&self, tenant: u32, seconds: u64) -> String {
        self.token_until(tenant, "counting", Scopes::SEQUENCE, seconds)
    }

    /// A token of these scopes.
    pub fn token_for(&self, tenant: u32, user: &str, scopes: Scopes) -> String {
        self.token_until(tenant, user, scopes, 3_600)
    }

    fn token_until(&self, tenant: u32, user: &str, scopes: Scopes, seconds: u64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.minter.mint_for(TenantId(tenant), &UserId::new(user).unwrap(), now + seconds, scopes).unwrap()
    }

    pub fn gateway(&self) -> SocketAddr {
        self.nodes(PlaygroundRole::Gateway)[0].parse().unwrap()
    }

    /// Addresses of a role.
    pub fn nodes(&self, role: PlaygroundRole) -> Vec<String> {
        self.about.nodes.iter().filter(|node| node.role == role).map(|node| node.address.clone()).collect()
    }

    /// A device's builder, with everything but the token.
    pub fn builder(&self, device: &str) -> ClientBuilder {
        Client::builder(self.gateway(), "localhost")
            .ca_pem(&std::fs::read(&self.about.ca_certificate).unwrap())
            .device(device)
            .connect_timeout(PATIENCE)
            .request_timeout(PATIENCE)
    }

    /// A connected device.
    pub async fn device(&self, user: &str, device: &str) -> Client {
        self.builder(device).token(self.token(user, 3600)).connect().await.unwrap()
    }

    pub fn kill(&self, node: &str) {
        self.ask(&ControlRequest::Kill { node: node.to_owned() });
    }

    pub fn start_node(&self, node: &str) {
        self.ask(&ControlRequest::Start { node: node.to_owned() });
    }

    pub fn status(&self) -> Vec<NodeState> {
        self.ask(&ControlRequest::Status).nodes
    }

    fn ask(&self, request: &ControlRequest) -> ControlResponse {
        let mut stream = UnixStream::connect(self.data().join(SOCKET)).unwrap();
        writeln!(stream, "{}", serde_json::to_string(request).unwrap()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        let answer: ControlResponse = serde_json::from_str(&line).unwrap();
        assert!(answer.ok, "{request:?}: {:?}", answer.error);
        answer
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Its end of stdin ends the playground, and with it all its children.
        drop(self.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for node in &self.about.nodes {
                let log = self.folder.join("logs").join(format!("{}.log", node.name));
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {}\n{}", node.name, lines[lines.len().saturating_sub(15)..].join("\n"));
            }
        }
    }
}

/// One process of the program under test, ready; ends with the test.
pub struct Process {
    child: Child,
    ready: serde_json::Value,
}

impl Process {
    pub fn start(arguments: &[&str]) -> Process {
        let mut command = Command::new(SERIATIM);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{arguments:?} is ready: {line:?}"));
        Process { child, ready }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        self.ready["address"].as_str().unwrap()
    }

    /// Where it says its metrics.
    pub fn metrics(&self) -> &str {
        self.ready["metrics"].as_str().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path, arguments: &[String]) -> (Child, ChildStdin) {
    let mut child = Command::new(SERIATIM)
        .args(["playground", "--exit-with-parent", "--data"])
        .arg(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"ready\":true"), "the playground is ready: {line:?}");
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

/// Sends a signal to a process of this test. Behind a `STOP` none of its threads runs any more.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let process = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(process, signal).unwrap();
    if signal == rustix::process::Signal::STOP {
        // One thread takes the signal and stops the others: on a busy machine they work on for a while.
        wait_until("all threads are stopped", || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat"))).all(|stat| {
                // A thread that has ended meanwhile does not run either.
                stat.map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
            })
        });
    }
}

/// Waits on a condition, with a deadline.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a node says at `/metrics`, at this address.
pub fn metrics(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// One of them, by its name and labels; `None`: there is none.
pub fn metric(address: &str, name: &str) -> Option<f64> {
    let text = metrics(address);
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Runs a program of this build with a deadline; its exit code, stdout and stderr.
pub fn run(program: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A program beside the one under test; `cargo build --release --bins` makes it.
pub fn sibling(name: &str) -> PathBuf {
    let path = Path::new(SERIATIM).with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build --release --workspace --bins", path.display());
    path
}

/// As [`wait_until`], for conditions that must be asked for.
pub async fn wait_until_async(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A CA of devices: signs client certificates.
pub struct DeviceCa {
    params: rcgen::CertificateParams,
    key: rcgen::KeyPair,
    pub pem: String,
}

/// A client certificate and its private key, as PEM.
pub struct Issued {
    pub chain: String,
    pub key: rcgen::KeyPair,
}

impl DeviceCa {
    pub fn new(name: &str) -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// A certificate for these names, good for `seconds` (negative: it ended so long ago).
    pub fn issue(&self, names: &[&str], seconds: i64) -> Issued {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = names.iter().map(|&name| rcgen::SanType::URI(name.try_into().unwrap())).collect();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let end = now.as_secs().checked_add_signed(seconds).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &rcgen::Issuer::from_params(&self.params, &self.key)).unwrap().pem();
        Issued { chain, key }
    }
}

impl Issued {
    /// A builder that shows it.
    pub fn shown_by(&self, builder: ClientBuilder) -> ClientBuilder {
        builder.client_certificate(self.chain.as_bytes(), self.key.serialize_pem().as_bytes())
    }
}
