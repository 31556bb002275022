//! Device: raftctl as a device of a user: through the gateway, over the public protocol, like everybody else.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use seriatim_client::{Client, ClientBuilder, ConnectError, Entry, EntryBody, RequestError};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{Chain, Seq, UserId};
use seriatim_proto::logic::Scopes;
use seriatim_proto::store::InboxEntry;

use crate::failure::Failure;
use crate::target::Target;

/// A connection as one user.
pub(crate) struct Device {
    /// the SDK's own
    pub(crate) client: Client,
    /// whose inbox it sees
    pub(crate) user: UserId,
}

/// A page of an inbox, in the store's own types.
pub(crate) struct Page {
    pub(crate) entries: Vec<(InboxEntry, Body)>,
    pub(crate) upto: Seq,
    pub(crate) more: bool,
    pub(crate) too_long: bool,
    pub(crate) trim: Seq,
    pub(crate) tail: Seq,
    pub(crate) chain: Chain,
}

/// A body, or why it is not there.
pub(crate) enum Body {
    Here { salt: Bytes, body: Bytes },
    Missing(&'static str),
}

impl Device {
    /// Enters as a device of `user`; with a token, as whomever it names.
    pub(crate) async fn connect(target: &Target, user: Option<&UserId>) -> Result<Device, Failure> {
        Self::connect_for(target, user, Scopes::DEVICE).await
    }

    /// Enters as `user` for `scopes`; with a token, as whomever and for whatever it names.
    pub(crate) async fn connect_for(target: &Target, user: Option<&UserId>, scopes: Scopes) -> Result<Device, Failure> {
        let gateway = target.gateway()?;
        let (host, _) =
            gateway.rsplit_once(':').ok_or_else(|| Failure::usage(format!("`{gateway}` is no host:port")))?;
        let client = with_token(Client::builder(resolve(gateway)?, host), target, user, scopes)?
            .ca_pem(&target.ca_pem()?)
            .device("raftctl")
            .connect_timeout(target.link.timeout)
            .request_timeout(target.link.timeout)
            .connect()
            .await
            .map_err(|error| connect_failure(gateway, &error))?;
        let identity = client.identity().ok_or_else(|| Failure::internal("connected as nobody"))?;
        if let Some(user) = user
            && identity.user != *user
        {
            return Err(Failure::usage(format!("the token is {}'s, not {user}'s", identity.user)));
        }
        Ok(Device { client, user: identity.user })
    }

    /// The next page.
    pub(crate) async fn sync(&self, from: Option<Seq>) -> Result<Page, Failure> {
        let page = self.client.sync(from, 0).await.map_err(|error| request_failure("failed to sync", &error))?;
        Ok(Page {
            entries: page.entries.into_iter().map(|entry| self.entry(entry)).collect(),
            upto: page.upto,
            more: page.more,
            too_long: page.too_long,
            trim: page.trim,
            tail: page.tail,
            chain: page.chain,
        })
    }

    fn entry(&self, entry: Entry) -> (InboxEntry, Body) {
        let reference = InboxEntry {
            seq: entry.seq,
            prev_seq: entry.prev_seq,
            ordinal: entry.ordinal,
            chain: entry.chain.unwrap_or_default(),
            conversation: entry.conversation.id_for(&self.user),
            entry: entry.entry_ref(),
            // Not said to devices.
            messages: 0,
        };
        let body = match entry.body {
            EntryBody::Here { salt, body } => Body::Here { salt, body },
            EntryBody::Erased => Body::Missing("erased"),
            EntryBody::Trimmed => Body::Missing("trimmed"),
            EntryBody::Unavailable => Body::Missing("unavailable"),
        };
        (reference, body)
    }
}

/// The token is read, or signed, anew before it ends: a verb that runs for long lives on with a file that is rewritten.
fn with_token(
    builder: ClientBuilder,
    target: &Target,
    user: Option<&UserId>,
    scopes: Scopes,
) -> Result<ClientBuilder, Failure> {
    let first = target.token(user, scopes)?;
    if target.token_is_read_once() {
        return Ok(builder.token(first));
    }
    let (target, user, first) = (target.clone(), user.cloned(), Mutex::new(Some(first)));
    Ok(builder.token_source(move || {
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let token = first.map_or_else(|| target.token(user.as_ref(), scopes).map_err(|failure| failure.message), Ok);
        std::future::ready(token)
    }))
}

pub(crate) fn resolve(address: &str) -> Result<SocketAddr, Failure> {
    let found = address.to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| Failure::unreachable(format!("failed to resolve {address}")))
}

fn connect_failure(gateway: &str, error: &ConnectError) -> Failure {
    let act = format!("failed to connect to the gateway at {gateway}");
    match error {
        ConnectError::Refused(refusal) => refused(&act, refusal),
        ConnectError::Setup(_) | ConnectError::Missing(_) => Failure::usage(format!("{act}: {error}")),
        ConnectError::Handshake(_) => Failure::usage(format!("{act}: {error}")).hint("--ca of this cluster"),
        ConnectError::Timeout(_) => Failure::unreachable(format!("{act}: {error}")).doubtful(),
    }
}

/// A request's bad end. What is safe to do after an unknown one, only the verb knows.
pub(crate) fn request_failure(act: &str, error: &RequestError) -> Failure {
    refused(act, error.refusal())
}

/// A refusal that came through the gateway.
fn refused(act: &str, refusal: &Refusal) -> Failure {
    let failure = Failure::refused(act, refusal);
    match refusal.code {
        // Without a quorum a holder's queues fill, too.
        ErrorCode::Backlogged | ErrorCode::Busy | ErrorCode::Timeout | ErrorCode::Unavailable => failure.doubtful(),
        _ => failure,
    }
}
