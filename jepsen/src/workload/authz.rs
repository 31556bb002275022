//! Authz: whoever must be refused, tries: strangers, other tenants, bad tokens, wrong scopes,
//! devices named after others.
//!
//! Only a definite answer counts. No answer says nothing about what would have been answered.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use seriatim_client::{Client, ConnectError, Conversation, RequestError, SendRequest};
use seriatim_proto::ids::{ConversationKey, CounterName, UserId};

use super::ended;
use super::process::Process;
use super::seen::body_text;
use super::site::{TENANT, honest};
use super::stage::{CONNECT_PATIENCE, Stage};
use crate::cluster::TokenClaims;
use crate::history::{Ended, Function, Op, Seen};

/// An expired token ended so long ago, s: faults bend clocks by minutes.
const LONG_AGO_S: i64 = 24 * 3_600;
/// How long an intruder waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts: a dial each costs more than a request.
const PAUSE: Duration = Duration::from_millis(50);

/// Tries one thing after another, until the run is over.
pub(crate) async fn run(stage: Arc<Stage>, place: usize) {
    let mut rng = stage.rng("authz", place);
    let intruder = Intruder { process: stage.process(), stage: Arc::clone(&stage) };
    while stage.rest(PAUSE).await && stage.turn().await {
        match rng.random_range(0..9) {
            0..3 => intruder.bad_token(&mut rng).await,
            3..5 => intruder.stranger(&mut rng).await,
            5..7 => intruder.other_tenant(&mut rng).await,
            7 => intruder.borrowed_name(&mut rng).await,
            _ => intruder.wrong_scope(&mut rng).await,
        }
    }
}

struct Intruder {
    stage: Arc<Stage>,
    process: Process,
}

/// What a try came to: refused under a code, or done.
type Tried = Result<(), String>;

impl Intruder {
    /// A token that no gateway may take.
    async fn bad_token(&self, rng: &mut StdRng) {
        let user = self.stage.cast.users.choose(rng).expect("a cast has users").to_string();
        let honest = honest(&user, None);
        let (what, claims) = match rng.random_range(0..4) {
            0 => ("a token whose time is over", TokenClaims { expires_in_s: -LONG_AGO_S, ..honest }),
            1 => ("a token for another audience", TokenClaims { audience: "elsewhere".to_owned(), ..honest }),
            2 => ("a token signed by somebody else", TokenClaims { foreign_key: true, ..honest }),
            _ => {
                let token = forged((self.stage.site.mint)(&honest));
                return self.note_dial("a token that was changed", self.dial(rng, token).await);
            }
        };
        let token = (self.stage.site.mint)(&claims);
        self.note_dial(what, self.dial(rng, token).await);
    }

    /// An honest user in conversations that are not his.
    async fn stranger(&self, rng: &mut StdRng) {
        let stranger = self.stage.cast.strangers.choose(rng).expect("a cast has strangers").clone();
        let token = self.stage.site.token(stranger.as_str(), None);
        let Ok(client) = self.dial(rng, token).await else { return };
        let Some(group) = self.stage.cast.groups.choose(rng) else { return };
        self.intrude(rng, &client, &stranger, group.key, "a stranger").await;
    }

    /// A user of the same name in another tenant.
    async fn other_tenant(&self, rng: &mut StdRng) {
        let user = self.stage.cast.users.choose(rng).expect("a cast has users").clone();
        let token = (self.stage.site.mint)(&TokenClaims { tenant: TENANT + 1, ..honest(user.as_str(), None) });
        let Ok(client) = self.dial(rng, token).await else { return };
        if rng.random_bool(0.5) {
            if let Ok(page) = client.sync(None, 0).await {
                let seen = if page.entries.is_empty() { Err("EMPTY".to_owned()) } else { Ok(()) };
                self.note("the inbox of the same name in another tenant", seen);
            }
            return;
        }
        let Some(group) = self.stage.cast.groups.choose(rng) else { return };
        self.intrude(rng, &client, &user, group.key, "another tenant").await;
    }

    /// A device that is named after somebody else: who it is, the token says, and nothing else.
    async fn borrowed_name(&self, rng: &mut StdRng) {
        let stranger = self.stage.cast.strangers.choose(rng).expect("a cast has strangers").clone();
        let victim = self.stage.cast.users.choose(rng).expect("a cast has users");
        let token = self.stage.site.token(stranger.as_str(), None);
        let Ok(client) = self.dial_as(rng, token, &format!("intruder.{victim}")).await else { return };
        let Some(identity) = client.identity() else { return };
        let tried = if identity.user == stranger { Err("OWN_NAME".to_owned()) } else { Ok(()) };
        self.note("being the user that the device is named after", tried);
    }

    /// A token that allows something else.
    async fn wrong_scope(&self, rng: &mut StdRng) {
        let user = self.stage.cast.users.choose(rng).expect("a cast has users").clone();
        if rng.random_bool(0.5) {
            let token = self.stage.site.token(user.as_str(), None);
            let Ok(client) = self.dial(rng, token).await else { return };
            let counter = CounterName::new("counter-000").expect("a short plain text is a name");
            let result = client.next_numbers(&counter, 1).await.map(drop);
            return self.note_request("numbers for a device", result);
        }
        let token = self.stage.site.token(user.as_str(), Some(&["sequence"]));
        let Ok(client) = self.dial(rng, token).await else { return };
        let result = client.sync(None, 0).await.map(drop);
        self.note_request("an inbox for a token that may only count", result);
    }

    /// Reads, writes, or lets himself into a group.
    async fn intrude(&self, rng: &mut StdRng, client: &Client, user: &UserId, group: ConversationKey, who: &str) {
        let conversation = Conversation::Group(group);
        match rng.random_range(0..3) {
            0 => {
                let result = client.history(&conversation, None, 0).await.map(drop);
                self.note_request(&format!("history of a group for {who}"), result);
            }
            1 => {
                let result = client.change_members(group, std::slice::from_ref(user), &[]).await.map(drop);
                self.note_request(&format!("joining a group for {who}"), result);
            }
            _ => {
                let request = SendRequest::new(conversation.clone(), "");
                let body = body_text(user, &conversation, &request.message_id);
                let request = SendRequest { body: body.into(), ..request };
                let call = self.stage.clock.now();
                let result = client.send_request(request.clone()).await;
                // One of no known outcome is not written down: if it is ever seen, nobody sent it.
                if ended::of_write(&result) == Ended::Fail {
                    let interval = (call, self.stage.clock.now());
                    let key = conversation.id_for(user).to_string();
                    let op = Op::new(self.process.number(), &key, Function::Append, interval, Ended::Fail);
                    self.stage.notebook.op(&Op { id: Some(request.message_id.to_string()), ..op });
                }
                self.note_request(&format!("a message into a group from {who}"), result.map(drop));
            }
        }
    }

    async fn dial(&self, rng: &mut StdRng, token: String) -> Result<Client, ConnectError> {
        self.dial_as(rng, token, "intruder").await
    }

    async fn dial_as(&self, rng: &mut StdRng, token: String, device: &str) -> Result<Client, ConnectError> {
        let site = &self.stage.site;
        let (_, address) = site.gateways.choose(rng).expect("a site has gateways");
        Client::builder(*address, &site.server_name)
            .endpoint(&site.endpoint)
            .token(token)
            .device(device)
            .connect_timeout(CONNECT_PATIENCE)
            .request_timeout(PATIENCE)
            .connect()
            .await
    }

    fn note_dial(&self, what: &str, dialed: Result<Client, ConnectError>) {
        match dialed {
            Ok(_) => self.note(what, Ok(())),
            Err(ConnectError::Refused(refusal)) => self.note(what, Err(refusal.code.to_string())),
            // Nobody answered.
            Err(_) => {}
        }
    }

    fn note_request(&self, what: &str, result: Result<(), RequestError>) {
        match result {
            Ok(()) => self.note(what, Ok(())),
            Err(error) => {
                if let Some(code) = ended::refused_for_good(&error) {
                    self.note(what, Err(code.to_string()));
                }
            }
        }
    }

    fn note(&self, what: &str, tried: Tried) {
        self.stage.notebook.seen(&Seen::Denied {
            proc: self.process.number(),
            what: what.to_owned(),
            at: self.stage.clock.now(),
            refused: tried.is_err(),
            code: tried.err().unwrap_or_else(|| "OK".to_owned()),
        });
    }
}

/// The same token, with one letter of its signature changed.
fn forged(token: String) -> String {
    let mut bytes = token.into_bytes();
    // Not the last letter: it holds bits that decoders drop.
    if let Some(place) = bytes.len().checked_sub(10) {
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
    }
    String::from_utf8(bytes).expect("a token is plain letters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_token_differs_in_its_signature_alone() {
        let token = "header.claims.signature-of-some-length".to_owned();
        let forged = forged(token.clone());
        assert_ne!(forged, token);
        assert_eq!(forged.rsplit_once('.').unwrap().0, token.rsplit_once('.').unwrap().0);
    }
}
