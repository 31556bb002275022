//! Scene: what a case is given: where the gateway is, users that nobody else has, and their tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::Value;
use seriatim_client::raw::{Raw, RawError, RawEvent, RawTarget, RawTransport};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{TenantId, UserId};
use seriatim_proto::logic::Scopes;
use seriatim_proto::token::{Minter, unverified};
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;

use super::peer::{Peer, frame};
use super::{End, Outcome, fail};

/// Whose key signs a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signer {
    Known,
    Unknown,
}

/// How long a minted token lives, in seconds.
const TOKEN_SECONDS: i64 = 3_600;

/// Where tokens come from.
pub(crate) enum Tokens {
    /// minted, for whomever a case needs
    Minted { minter: Minter, tenant: TenantId },
    /// those that were given: of one user, perhaps of another one, perhaps for numbers
    Given { one: String, other: Option<String>, sequence: Option<String> },
}

/// A gateway, on one way in.
pub(crate) struct Site {
    pub(crate) target: RawTarget,
    pub(crate) transport: RawTransport,
    /// longest wait for one answer
    pub(crate) patience: Duration,
    pub(crate) tokens: Tokens,
    /// of all users of this run: runs on one cluster do not meet
    pub(crate) run: String,
}

/// Why no case can be asked.
pub(crate) enum Knock {
    /// there is no connection
    Connect(RawError),
    /// no token is taken
    Token(ErrorCode),
}

impl Site {
    /// Is anybody there who takes the tokens? What else may be wrong the cases say.
    pub(crate) async fn knock(&self) -> Result<(), Knock> {
        let raw = Box::pin(Raw::connect(&self.target, self.transport, self.patience)).await;
        let mut raw = raw.map_err(Knock::Connect)?;
        let Ok(user) = (Scene { site: self, number: "knock" }).user("alice") else { return Ok(()) };
        let hello = v1::Hello { token: user.token, device: "knock".to_owned(), ..Default::default() };
        let said = async {
            let control = raw.open().await;
            raw.write(control, &frame(1, Asked::Hello(hello)), false).await;
            loop {
                match raw.next().await {
                    Some(RawEvent::Closed(Some(code))) => return Some(code),
                    // Why the connection ends, right before it does.
                    Some(RawEvent::Frame(_, v1::ServerFrame { body: Some(Said::Error(_)), .. })) => {}
                    _ => return None,
                }
            }
        };
        let code = tokio::time::timeout(self.patience, said).await.ok().flatten();
        let refused = [ErrorCode::AuthFailed, ErrorCode::AuthExpired];
        match refused.into_iter().find(|refused| code == Some(refused.close_code())) {
            Some(refused) => Err(Knock::Token(refused)),
            None => Ok(()),
        }
    }
}

/// A user of a case.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) tenant: u32,
    pub(crate) token: String,
}

impl User {
    /// The direct conversation with him.
    pub(crate) fn conversation(&self) -> v1::Conversation {
        v1::Conversation { id: Some(v1::conversation::Id::Peer(self.name.clone())) }
    }

    /// In the type of the chain's own functions.
    pub(crate) fn id(&self) -> Outcome<UserId> {
        UserId::new(&self.name).or_else(|error| fail(format!("the user's name: {error}")))
    }
}

/// One case on one gateway.
pub(crate) struct Scene<'a> {
    pub(crate) site: &'a Site,
    /// `C-014`
    pub(crate) number: &'a str,
}

impl Scene<'_> {
    /// Users of this case have nothing yet; not so with tokens that were given.
    pub(crate) fn fresh(&self) -> Outcome {
        match self.site.tokens {
            Tokens::Minted { .. } => Ok(()),
            Tokens::Given { .. } => Err(End::Skipped("needs users who have nothing yet: --dev-key".to_owned())),
        }
    }

    /// A user of this case: `alice` and `bob` are there with given tokens too, others only with a key.
    pub(crate) fn user(&self, role: &str) -> Outcome<User> {
        let given = match &self.site.tokens {
            Tokens::Minted { .. } => return self.minted(role, TOKEN_SECONDS, Scopes::DEVICE),
            Tokens::Given { one, .. } if role == "alice" => Some(one),
            Tokens::Given { other, .. } if role == "bob" => other.as_ref(),
            Tokens::Given { .. } => None,
        };
        match given {
            Some(token) => read(token),
            None => Err(End::Skipped(format!(
                "needs a token of {role}: --dev-key{}",
                match role {
                    "bob" => ", or --peer-token-file",
                    _ => "",
                }
            ))),
        }
    }

    /// Somebody who may ask for numbers, and for nothing else.
    pub(crate) fn counting(&self) -> Outcome<User> {
        match &self.site.tokens {
            Tokens::Minted { .. } => self.minted("counting", TOKEN_SECONDS, Scopes::SEQUENCE),
            Tokens::Given { sequence: Some(token), .. } => read(token),
            Tokens::Given { sequence: None, .. } => Err(End::Skipped(
                "needs a token with the scope `sequence`: --dev-key, or --sequence-token-file".to_owned(),
            )),
        }
    }

    /// A token with these claims; signed by the key of the run, or by one that nobody knows.
    pub(crate) fn signed(&self, claims: &Value, by: Signer) -> Outcome<String> {
        let minter = match (&self.site.tokens, by) {
            (Tokens::Minted { minter, .. }, Signer::Known) => minter.clone(),
            (Tokens::Given { .. }, Signer::Known) => return Err(no_key()),
            (_, Signer::Unknown) => {
                let key = KeyPair::generate_for(&PKCS_ED25519);
                let key = key.or_else(|error| fail(format!("make a key: {error}")))?;
                let minter = Minter::from_private_pem(key.serialize_pem().as_bytes());
                minter.or_else(|refusal| fail(format!("use a key: {}", refusal.message)))?
            }
        };
        minter.sign(claims).or_else(|refusal| fail(format!("sign a token: {}", refusal.message)))
    }

    /// A user whose token is over since a minute.
    pub(crate) fn expired(&self) -> Outcome<User> {
        self.minted("late", -60, Scopes::DEVICE)
    }

    /// A user whose token ends after so many seconds.
    pub(super) fn minted(&self, role: &str, seconds: i64, scopes: Scopes) -> Outcome<User> {
        let Tokens::Minted { minter, tenant } = &self.site.tokens else { return Err(no_key()) };
        let name = self.name(role);
        let user = UserId::new(&name).or_else(|error| fail(format!("the user's name: {error}")))?;
        match minter.mint_for(*tenant, &user, end(seconds), scopes) {
            Ok(token) => Ok(User { name, tenant: tenant.0, token }),
            Err(refusal) => fail(format!("sign a token: {}", refusal.message)),
        }
    }

    /// A name that nobody but this case of this run uses.
    pub(crate) fn name(&self, role: &str) -> String {
        format!("{}-{}-{role}", self.site.run, self.number.to_lowercase())
    }

    /// A session of a user.
    pub(crate) async fn enter(&self, role: &str) -> Outcome<Peer> {
        self.enter_as(self.user(role)?, "phone").await
    }

    /// A session of a user's device.
    pub(crate) async fn enter_as(&self, user: User, device: &str) -> Outcome<Peer> {
        let mut peer = Peer::connect(self.site).await?;
        peer.greet(user, device).await?;
        Ok(peer)
    }
}

fn no_key() -> End {
    End::Skipped("needs a token that only a key can make: --dev-key".to_owned())
}

fn end(seconds: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    now.saturating_add_signed(seconds)
}

/// Who a token says that it is.
fn read(token: &str) -> Outcome<User> {
    let claims = unverified(token).map(|said| said.claims);
    let claim = |name: &str| claims.as_ref().and_then(|claims| claims.get(name));
    let name = claim("sub").and_then(|name| name.as_str());
    let tenant = claim("tenant").and_then(|tenant| tenant.as_u64()).and_then(|tenant| u32::try_from(tenant).ok());
    match (name, tenant) {
        (Some(name), Some(tenant)) => Ok(User { name: name.to_owned(), tenant, token: token.to_owned() }),
        _ => Err(End::Skipped("a token was given that is none: see raftctl auth inspect".to_owned())),
    }
}
