//! Token keys: where a role gets the keys from that tokens are verified with, and how it keeps them fresh.
//!
//! A file is looked at every few seconds, an issuer's address every few minutes; and both at once when a token names a
//! key that is not known, which may be a new one, at most once in a while however many such tokens come. Whatever goes
//! wrong, the keys that were there stay.
//!
//! # Failure
//! Without keys at the start the role does not start. An issuer that is away later costs nothing but its new keys.
//!
//! # Reading order
//! [`start`] → `Keeper::run` → `fetch`.

mod fetch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use seriatim_proto::limits;
use seriatim_proto::token::{KeySet, Verifier};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use fetch::Address;

/// Where the keys are, as the command line says it.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeysFrom {
    /// file or address of a JWKS
    pub(crate) keys: Option<String>,
    /// PEM file of those who may sign for the address
    pub(crate) ca: Option<PathBuf>,
    /// PEM file of one key
    pub(crate) public_key: Option<PathBuf>,
    /// file of a secret, for development
    pub(crate) hs256_secret: Option<PathBuf>,
}

impl KeysFrom {
    fn source(&self) -> anyhow::Result<Option<Source>> {
        let source = match (&self.keys, &self.public_key) {
            (Some(_), Some(_)) => {
                anyhow::bail!("start: say --token-keys or --token-public-key, not both: a JWKS may hold several keys")
            }
            (Some(text), None) if text.contains("://") => {
                Source::Address(Address::parse(text, self.ca.as_deref()).context("use --token-keys")?)
            }
            (Some(path), None) => Source::File(path.into()),
            (None, Some(path)) => Source::File(path.clone()),
            (None, None) => return Ok(None),
        };
        anyhow::ensure!(
            self.ca.is_none() || matches!(source, Source::Address(_)),
            "start: --token-keys-ca is for a --token-keys that is an https address"
        );
        Ok(Some(source))
    }
}

/// Reads the keys, and keeps them fresh for as long as the process runs.
pub(crate) async fn start(from: &KeysFrom, registry: &mut Registry) -> anyhow::Result<Verifier> {
    start_with(from, registry, None).await
}

async fn start_with(from: &KeysFrom, registry: &mut Registry, pauses: Option<Pauses>) -> anyhow::Result<Verifier> {
    let fixed = match &from.hs256_secret {
        Some(path) => {
            let secret = read_file(path.clone()).await?;
            warn!(secret = %path.display(), "tokens of a shared secret are taken: for development only");
            Some(KeySet::from_hs256_secret(secret.trim_ascii_end()).context("use --development-hs256-secret")?)
        }
        None => None,
    };
    let metrics = Metrics::register(registry);
    let Some(source) = from.source()? else {
        let keys = fixed.context(
            "start: --token-keys is missing (or `token_keys` in the config file): the file or https address of a JWKS \
             with the keys that tokens are signed with",
        )?;
        metrics.keys.set(1);
        return Ok(Verifier::new(keys));
    };
    let read = source.read().await.with_context(|| format!("read the keys of tokens from {source}"))?;
    let keys = KeySet::parse(&read).with_context(|| format!("use the keys of tokens from {source}"))?;
    let verifier = Verifier::new(KeySet::default());
    let mut keeper = Keeper {
        verifier: verifier.clone(),
        pauses: pauses.unwrap_or_else(|| source.pauses()),
        source,
        fixed: fixed.unwrap_or_default(),
        seen: Vec::new(),
        read_at: Instant::now(),
        failing: false,
        metrics,
    };
    keeper.take(read, keys);
    let (door, wishes) = mpsc::channel(WISHES_MAX);
    verifier.refreshed_by(Box::new(move || {
        let (done, read) = oneshot::channel();
        // Full: as many wait already, and this one is not waited for.
        let _ = door.try_send(done);
        Box::pin(async move { read.await.unwrap_or(false) })
    }));
    tokio::spawn(keeper.run(wishes));
    Ok(verifier)
}

/// From one look to the next.
#[derive(Clone, Copy, Debug)]
struct Pauses {
    well: Duration,
    /// when the last one failed
    failed: Duration,
    /// when somebody waits
    asked: Duration,
}

/// Where the keys are.
#[derive(Debug)]
enum Source {
    File(PathBuf),
    Address(Address),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Source {
    async fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File(path) => read_file(path.clone()).await,
            Self::Address(address) => Ok(fetch::get(address).await?),
        }
    }

    fn pauses(&self) -> Pauses {
        match self {
            Self::File(_) => FILE_PAUSES,
            Self::Address(_) => ADDRESS_PAUSES,
        }
    }
}

async fn read_file(path: PathBuf) -> anyhow::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt;

    let file = tokio::fs::File::open(&path).await.with_context(|| format!("open {}", path.display()))?;
    let mut bytes = Vec::new();
    // One byte more than is taken, so that too many are seen to be.
    let mut file = file.take(u64::from(limits::TOKEN_KEYS_BYTES_MAX) + 1);
    file.read_to_end(&mut bytes).await.with_context(|| format!("read {}", path.display()))?;
    Ok(bytes)
}

/// Keeps the keys of a verifier fresh.
struct Keeper {
    verifier: Verifier,
    source: Source,
    pauses: Pauses,
    /// Keys that come from elsewhere and do not change.
    fixed: KeySet,
    /// What was used last.
    seen: Vec<u8>,
    read_at: Instant,
    failing: bool,
    metrics: Metrics,
}

impl Keeper {
    async fn run(mut self, mut wishes: mpsc::Receiver<oneshot::Sender<bool>>) {
        let mut waiting: Vec<oneshot::Sender<bool>> = Vec::new();
        loop {
            let pause = match (waiting.is_empty(), self.failing) {
                (false, _) => self.pauses.asked,
                (true, true) => self.pauses.failed,
                (true, false) => self.pauses.well,
            };
            tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(wish) => waiting.push(wish),
                    None => return,
                },
                () = tokio::time::sleep_until(self.read_at + pause) => {
                    self.look().await;
                    for wish in waiting.drain(..) {
                        // Who has gone is not told.
                        let _ = wish.send(!self.failing);
                    }
                }
            }
        }
    }

    async fn look(&mut self) {
        let read = self.source.read().await;
        self.read_at = Instant::now();
        let (outcome, error) = match read {
            Ok(read) if read == self.seen => {
                self.failing = false;
                return self.metrics.read(Outcome::Same);
            }
            Ok(read) => match KeySet::parse(&read) {
                Ok(keys) => {
                    self.metrics.read(Outcome::New);
                    info!(source = %self.source, keys = ?keys, "new keys of tokens are used");
                    return self.take(read, keys);
                }
                Err(error) => (Outcome::Refused, error.into()),
            },
            Err(error) => (Outcome::Unreachable, error),
        };
        self.metrics.read(outcome);
        // Once per outage.
        if !std::mem::replace(&mut self.failing, true) {
            warn!(source = %self.source, error = format!("{error:#}"), "no new keys of tokens; the old ones stay");
        }
    }

    fn take(&mut self, read: Vec<u8>, keys: KeySet) {
        self.failing = false;
        self.seen = read;
        for info in keys.infos() {
            if let Some(reason) = info.passed_over {
                warn!(source = %self.source, kid = info.kid, algorithm = info.algorithm, reason, "a key is passed over");
            }
        }
        let keys = keys.with(self.fixed.clone());
        self.metrics.keys.set(i64::try_from(keys.usable_count()).unwrap_or(i64::MAX));
        self.verifier.replace(keys);
    }
}

/// How a look at the keys ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    New,
    Same,
    Refused,
    Unreachable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Clone, Debug)]
struct Metrics {
    keys: Gauge,
    reads: Family<OutcomeLabel, Counter>,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self { keys: Gauge::default(), reads: Family::default() };
        registry.register("token_keys", "Keys that tokens are verified with", metrics.keys.clone());
        registry.register("token_keys_reads", "Looks at those keys after the first, by outcome", metrics.reads.clone());
        metrics
    }

    fn read(&self, outcome: Outcome) {
        self.reads.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

/// Those who wait for a look, above which more do not wait.
const WISHES_MAX: usize = 1_024;
const FILE_PAUSES: Pauses =
    Pauses { well: Duration::from_secs(5), failed: Duration::from_secs(5), asked: Duration::from_secs(1) };
const ADDRESS_PAUSES: Pauses =
    Pauses { well: Duration::from_secs(300), failed: Duration::from_secs(30), asked: Duration::from_secs(5) };

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
    use parking_lot::Mutex;
    use rcgen::KeyPair;
    use seriatim_proto::token::{AUDIENCE, Claims, TokenError};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Far off, so that only what is asked for happens.
    const ONLY_ASKED: Pauses =
        Pauses { well: Duration::from_secs(3_600), failed: Duration::from_secs(3_600), asked: Duration::ZERO };
    const SOON: Duration = Duration::from_millis(20);

    struct Signer {
        kid: &'static str,
        key: KeyPair,
    }

    impl Signer {
        fn new(kid: &'static str) -> Self {
            Self { kid, key: KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap() }
        }

        fn token(&self) -> String {
            let mut header = Header::new(Algorithm::EdDSA);
            header.kid = Some(self.kid.to_owned());
            let claims = Claims {
                aud: AUDIENCE.to_owned(),
                sub: "alice".to_owned(),
                tenant: 1,
                exp: 4_000_000_000,
                scopes: None,
            };
            jsonwebtoken::encode(&header, &claims, &self.encoding()).unwrap()
        }

        fn encoding(&self) -> EncodingKey {
            EncodingKey::from_ed_pem(self.key.serialize_pem().as_bytes()).unwrap()
        }
    }

    fn jwks(signers: &[&Signer]) -> String {
        let keys: Vec<_> = signers
            .iter()
            .map(|signer| {
                let public = DecodingKey::from_ed_pem(signer.key.public_key_pem().as_bytes()).unwrap();
                let mut jwk = Jwk::from_decoding_key(&public, Some(Algorithm::EdDSA)).unwrap();
                jwk.common.key_id = Some(signer.kid.to_owned());
                jwk
            })
            .collect();
        serde_json::json!({ "keys": keys }).to_string()
    }

    /// An issuer on this machine: what it answers can be changed, and its questions are counted.
    #[derive(Clone)]
    struct Issuer {
        answer: Arc<Mutex<String>>,
        asked: Arc<AtomicUsize>,
        port: u16,
    }

    impl Issuer {
        async fn start(keys: &str, tls: Option<rustls::ServerConfig>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let issuer =
                Self { answer: Arc::default(), asked: Arc::default(), port: listener.local_addr().unwrap().port() };
            issuer.set(keys);
            let acceptor = tls.map(|tls| tokio_rustls::TlsAcceptor::from(Arc::new(tls)));
            let serving = issuer.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let serving = serving.clone();
                    match &acceptor {
                        None => serving.serve(stream).await,
                        // Who does not trust it goes away in the middle.
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => serving.serve(stream).await,
                            Err(_) => continue,
                        },
                    }
                }
            });
            issuer
        }

        async fn serve(self, mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            assert!(request.starts_with(b"GET /jwks?v=1 HTTP/1.1\r\n"));
            self.asked.fetch_add(1, Ordering::SeqCst);
            let answer = self.answer.lock().clone();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }

        fn set(&self, body: &str) {
            *self.answer.lock() = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }

        fn from(&self, scheme: &str) -> KeysFrom {
            KeysFrom { keys: Some(format!("{scheme}://localhost:{}/jwks?v=1", self.port)), ..KeysFrom::default() }
        }
    }

    fn metric(registry: &Registry, name: &str) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("0").to_owned()
    }

    async fn checked(verifier: &Verifier, token: &str) -> Result<(), TokenError> {
        let mut are_read = true;
        if let Err(TokenError::UnknownKey) = verifier.check(token) {
            are_read = verifier.refresh().expect("somebody looks").await;
        }
        verifier.check_again(token, are_read).map(drop)
    }

    #[tokio::test]
    async fn a_key_that_is_not_known_is_looked_for_at_the_issuer() {
        let (first, second) = (Signer::new("1"), Signer::new("2"));
        let issuer = Issuer::start(&jwks(&[&first]), None).await;
        let mut registry = Registry::default();
        let verifier = start_with(&issuer.from("http"), &mut registry, Some(ONLY_ASKED)).await.unwrap();
        assert_eq!(checked(&verifier, &first.token()).await, Ok(()));
        assert_eq!(issuer.asked.load(Ordering::SeqCst), 1, "a key that is known is not looked for");
        assert_eq!(checked(&verifier, &second.token()).await, Err(TokenError::UnknownKey));
        issuer.set(&jwks(&[&first, &second]));
        assert_eq!(checked(&verifier, &second.token()).await, Ok(()));
        assert_eq!(metric(&registry, "token_keys"), "2");
        // Rotated away.
        issuer.set(&jwks(&[&second]));
        verifier.refresh().unwrap().await;
        assert_eq!(checked(&verifier, &first.token()).await, Err(TokenError::UnknownKey));
        assert_eq!(metric(&registry, "token_keys_reads_total{outcome=\"New\"}"), "2");
    }

    #[tokio::test]
    async fn however_many_ask_the_issuer_is_asked_once_in_a_while() {
        let signer = Signer::new("1");
        let issuer = Issuer::start(&jwks(&[&signer]), None).await;
        let pauses = Pauses { asked: Duration::from_millis(500), ..ONLY_ASKED };
        let begun = std::time::Instant::now();
        let verifier = start_with(&issuer.from("http"), &mut Registry::default(), Some(pauses)).await.unwrap();
        let waiting: Vec<_> = (0..2_000).map(|_| verifier.refresh().unwrap()).collect();
        futures_util::future::join_all(waiting).await;
        let looks = begun.elapsed().as_millis() / 500;
        assert!(issuer.asked.load(Ordering::SeqCst) as u128 <= 1 + looks);
    }

    #[tokio::test]
    async fn whatever_an_issuer_answers_the_keys_that_were_there_stay() {
        let (signer, stranger) = (Signer::new("1"), Signer::new("2"));
        let issuer = Issuer::start(&jwks(&[&signer]), None).await;
        let mut registry = Registry::default();
        let verifier = start_with(&issuer.from("http"), &mut registry, Some(ONLY_ASKED)).await.unwrap();
        let good = issuer.answer.lock().clone();
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(limits::TOKEN_KEYS_BYTES_MAX as usize + 1));
        for (answer, outcome) in [
            ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", "Unreachable"),
            ("HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n", "Unreachable"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"keys\":[", "Unreachable"),
            ("nonsense", "Unreachable"),
            (long.as_str(), "Unreachable"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "Refused"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}", "Refused"),
            (good.as_str(), "Same"),
        ] {
            let name = format!("token_keys_reads_total{{outcome=\"{outcome}\"}}");
            let before: u32 = metric(&registry, &name).parse().unwrap();
            *issuer.answer.lock() = answer.to_owned();
            let are_read = verifier.refresh().unwrap().await;
            assert_eq!(are_read, outcome == "Same", "{answer:.60}");
            // A key that is not known may be a new one, while nobody can look.
            let error = if are_read { TokenError::UnknownKey } else { TokenError::KeysUnreadable };
            assert_eq!(verifier.check_again(&stranger.token(), are_read).map(drop), Err(error));
            assert_eq!(metric(&registry, &name), (before + 1).to_string(), "{answer:.60}");
            assert_eq!(verifier.check(&signer.token()).map(drop), Ok(()), "{answer:.60}");
        }
        // Nobody there.
        let nobody = KeysFrom { keys: Some("http://127.0.0.1:1/jwks".to_owned()), ..KeysFrom::default() };
        let error = start(&nobody, &mut Registry::default()).await.unwrap_err();
        assert!(format!("{error:#}").contains("http://127.0.0.1:1/jwks: connect"), "{error:#}");
    }

    #[tokio::test]
    async fn an_issuer_is_trusted_by_its_ca() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, others) = (folder.path().join("ours"), folder.path().join("others"));
        let [ours, others] = [ours, others].map(|path| seriatim_gateway::dev_ca::ensure_dev_ca(&path).unwrap());
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain = CertificateDer::pem_file_iter(&ours.gateway).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&ours.gateway_key).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let signer = Signer::new("1");
        let issuer = Issuer::start(&jwks(&[&signer]), Some(tls)).await;
        let with_ca = |ca: &PathBuf| KeysFrom { ca: Some(ca.clone()), ..issuer.from("https") };
        let verifier = start(&with_ca(&ours.ca), &mut Registry::default()).await.unwrap();
        verifier.verify(&signer.token()).unwrap();
        let error = start(&with_ca(&others.ca), &mut Registry::default()).await.unwrap_err();
        assert!(format!("{error:#}").contains("speak TLS"), "{error:#}");
    }

    #[tokio::test]
    async fn a_file_is_read_anew_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        let (first, second) = (Signer::new("1"), Signer::new("2"));
        std::fs::write(&path, jwks(&[&first])).unwrap();
        let from = KeysFrom { public_key: Some(path.clone()), ..KeysFrom::default() };
        let pauses = Pauses { well: SOON, failed: SOON, asked: Duration::from_secs(3_600) };
        let mut registry = Registry::default();
        let verifier = start_with(&from, &mut registry, Some(pauses)).await.unwrap();
        let becomes = async |token: &str, expected: Result<(), TokenError>| {
            let deadline = Instant::now() + Duration::from_secs(20);
            while verifier.check(token).map(drop) != expected {
                assert!(Instant::now() < deadline, "{expected:?} in time");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        std::fs::write(&path, jwks(&[&second])).unwrap();
        becomes(&second.token(), Ok(())).await;
        assert_eq!(verifier.check(&first.token()).map(drop), Err(TokenError::UnknownKey));
        // Half a file, no file, and a public key as PEM, which takes any name.
        for broken in [Some("{\"keys\""), None] {
            match broken {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let outcome = if broken.is_some() { "Refused" } else { "Unreachable" };
            let name = format!("token_keys_reads_total{{outcome=\"{outcome}\"}}");
            let deadline = Instant::now() + Duration::from_secs(20);
            while metric(&registry, &name) == "0" {
                assert!(Instant::now() < deadline, "{outcome} in time");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(verifier.check(&second.token()).map(drop), Ok(()));
        }
        std::fs::write(&path, first.key.public_key_pem()).unwrap();
        becomes(&first.token(), Ok(())).await;
    }

    #[tokio::test]
    async fn what_cannot_be_meant_is_refused_with_what_to_say() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            Some(folder.path().join(name))
        };
        let keys = |text: &str| KeysFrom { keys: Some(text.to_owned()), ..KeysFrom::default() };
        for (from, said) in [
            (KeysFrom::default(), "--token-keys is missing"),
            (KeysFrom { public_key: Some("b".into()), ..keys("a") }, "not both"),
            (KeysFrom { ca: Some("b".into()), ..keys("a") }, "--token-keys-ca"),
            (keys("http://id.example/jwks"), "must be https"),
            (keys("ftp://id.example/jwks"), "must begin with https"),
            (keys("https://user:secret@id.example/jwks"), "no user"),
            (KeysFrom { ca: file("ca", ""), ..keys("https://id.example/jwks") }, "holds no certificate"),
            (keys("/nowhere/jwks.json"), "/nowhere/jwks.json"),
            (KeysFrom { public_key: file("pem", "hello"), ..KeysFrom::default() }, "neither a JWKS"),
            (KeysFrom { hs256_secret: file("short", "secret"), ..KeysFrom::default() }, "less than 32 bytes"),
        ] {
            let error = start(&from, &mut Registry::default()).await.unwrap_err();
            assert!(format!("{error:#}").contains(said), "{from:?}: {error:#}");
        }
        // A secret alone is enough, for development.
        let secret = "0123456789abcdef0123456789abcdef";
        let from = KeysFrom { hs256_secret: file("long", &format!("{secret}\n")), ..KeysFrom::default() };
        let verifier = start(&from, &mut Registry::default()).await.unwrap();
        let claims =
            Claims { aud: AUDIENCE.to_owned(), sub: "alice".to_owned(), tenant: 1, exp: 4_000_000_000, scopes: None };
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
        verifier.verify(&token).unwrap();
        assert!(verifier.refresh().is_none());
    }
}
