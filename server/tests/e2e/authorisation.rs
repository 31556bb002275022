//! Who may do what: every cell of the table in docs/protocol.md, on a real cluster. A refusal is the same for what does
//! not exist, and changes nothing.

use crate::common::{Cluster, DeviceCa, PATIENCE, wait_until_async};
use futures_util::StreamExt;
use seriatim_client::{
    AmendRequest, Amendment, Client, Conversation, Entry, Kind, SendRequest, SendStatus, SubscriptionError,
};
use seriatim_proto::certificate::Name;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{ConversationKey, CounterName, Emoji, MessageId, Seq, TenantId, UserId};
use seriatim_proto::logic::Scopes;

const HEADING: &str = "## Who may do what";

/// The columns in the table's order: tenant, user, scopes.
const CALLERS: [(&str, u32, &str, Scopes); 8] = [
    ("creator", 1, "creator", Scopes::DEVICE),
    ("author", 1, "author", Scopes::DEVICE),
    ("member", 1, "member", Scopes::DEVICE),
    ("former member", 1, "former", Scopes::DEVICE),
    ("stranger", 1, "stranger", Scopes::DEVICE),
    // Of the same name as one who may do everything.
    ("other tenant", 2, "creator", Scopes::DEVICE),
    ("scope `sequence`", 1, "creator", Scopes::SEQUENCE),
    ("no scope", 1, "creator", Scopes { device: false, sequence: false }),
];

/// What is asked for: of which group, about which of its messages, and by whom.
struct Place {
    group: ConversationKey,
    /// the author's, given to the former member too
    target: Seq,
    /// the entry by which the former member went
    removal: Seq,
    caller: UserId,
}

impl Place {
    fn conversation(&self) -> Conversation {
        Conversation::Group(self.group)
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn new_id() -> MessageId {
    SendRequest::new(Conversation::peer("nobody").unwrap(), "").message_id
}

fn new_group() -> ConversationKey {
    ConversationKey(new_id().0)
}

async fn ask(client: &Client, what: &str, place: &Place) -> Result<(), Refusal> {
    let conversation = place.conversation();
    let amend = async |amendment: Amendment| {
        client.amend(AmendRequest::new(conversation.clone(), place.target, amendment)).await.map(drop)
    };
    let counter = CounterName::new("orders").unwrap();
    let answer = match what {
        "`Send`" => client.send(conversation, "hello").await.map(drop),
        "`QuerySend` of an id that nobody used" => client
            .query_send(&conversation, new_id(), None)
            .await
            .map(|status| assert_eq!(status, SendStatus::NotYet, "it says the same to everybody")),
        "`CancelSend` of an id that nobody used" => client.cancel_send(&conversation, new_id(), None).await.map(drop),
        "`CreateGroup` under the same group id" => client.create_group(place.group, &[user("bob")]).await.map(drop),
        "`ChangeMembers`: another one comes" => {
            client.change_members(place.group, &[user("newcomer")], &[]).await.map(drop)
        }
        "`ChangeMembers`: a member goes" => client.change_members(place.group, &[], &[user("member")]).await.map(drop),
        "`ChangeMembers`: the caller goes" => {
            client.change_members(place.group, &[], std::slice::from_ref(&place.caller)).await.map(drop)
        }
        "`Amend`: edit" => client.amend(AmendRequest::edit(conversation, place.target, "hello again")).await.map(drop),
        "`Amend`: recall" => amend(Amendment::Recall).await,
        "`Amend`: react" => amend(Amendment::React { emoji: Emoji::new("+1").unwrap(), set: true }).await,
        "`Amend`: pin" => amend(Amendment::Pin { set: true }).await,
        "`History`" => client.history(&conversation, None, 0).await.map(drop),
        "`Mark`: muted" => client.mute(&conversation, true).await.map(drop),
        "`Sync`, `List`, `Status`, `Ack` of the caller's own inbox" => {
            let asked = [
                client.sync(None, 0).await.map(drop),
                client.list(None, 0).await.map(drop),
                client.status().await.map(drop),
                client.ack(Seq::FIRST).await.map(drop),
            ];
            assert!(asked.iter().all(|one| one.is_ok() == asked[0].is_ok()), "{asked:?}");
            asked.into_iter().collect()
        }
        "`Subscribe` to it" => {
            let first = tokio::time::timeout(PATIENCE, client.subscribe(Seq::FIRST, None).next()).await;
            return match first.unwrap().unwrap() {
                Ok(_) => Ok(()),
                Err(SubscriptionError::Refused(refusal)) => Err(refusal),
                Err(other) => panic!("{other}"),
            };
        }
        "`Next`, `Current` of a counter" => {
            let asked =
                [client.next_numbers(&counter, 1).await.map(drop), client.current_number(&counter).await.map(drop)];
            assert_eq!(asked[0].is_ok(), asked[1].is_ok(), "{asked:?}");
            asked.into_iter().collect()
        }
        other => panic!("no such request: {other}"),
    };
    answer.map_err(|error| {
        assert!(!error.is_unknown(), "{what}: {error}");
        error.refusal().clone()
    })
}

/// The rows of the table: what is asked, and what each caller is answered.
fn table() -> Vec<(String, Vec<String>)> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md")).unwrap();
    let section = page.split_once(HEADING).unwrap().1.split("\n## ").next().unwrap();
    let mut rows = section.lines().filter(|line| line.starts_with('|')).map(|line| {
        let mut cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned());
        (cells.next().unwrap(), cells.collect::<Vec<_>>())
    });
    let head = rows.next().unwrap();
    assert_eq!(head.1, CALLERS.map(|(name, ..)| name), "the callers");
    let rows: Vec<_> = rows.skip(1).collect();
    assert!(rows.iter().all(|row| row.1.len() == CALLERS.len()), "{rows:?}");
    rows
}

struct World {
    creator: Client,
    author: Client,
}

impl World {
    /// A group whose messages and members are those of the table.
    async fn group(&self, caller: &str) -> Place {
        let group = new_group();
        let members = ["author", "member", "former"].map(user);
        self.creator.create_group(group, &members).await.unwrap();
        let target = self.author.send(Conversation::Group(group), "hello").await.unwrap().seq;
        let removal = self.creator.change_members(group, &[], &[user("former")]).await.unwrap().seq;
        Place { group, target, removal, caller: user(caller) }
    }

    async fn history(&self, place: &Place) -> Vec<Entry> {
        let page = self.creator.history(&place.conversation(), None, 0).await.unwrap();
        assert!(!page.more);
        page.entries
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_is_answered_as_documented_and_a_refusal_says_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, file) = (DeviceCa::new("devices"), folder.path().join("devices.pem"));
    std::fs::write(&file, &ca.pem).unwrap();
    let arguments = ["--client-ca", file.to_str().unwrap()];
    let cluster = Cluster::start_with(folder.path().join("cluster"), &arguments);
    let mut callers = Vec::new();
    for (name, tenant, named, scopes) in CALLERS {
        let token = cluster.token_for(tenant, named, scopes);
        let by_token = cluster.builder("phone").token(token).connect().await.unwrap();
        // Whatever the way in, the rules are the same.
        let certificate = Name { tenant: TenantId(tenant), user: user(named), scopes };
        let shown = ca.issue(&[&certificate.to_string()], 3_600);
        let by_certificate = shown.shown_by(cluster.builder("tablet")).connect().await.unwrap();
        if scopes.device {
            // So that there is something in every inbox.
            by_token.send(Conversation::peer(named).unwrap(), "to myself").await.unwrap();
        }
        callers.push((name, named, by_token));
        callers.push((name, named, by_certificate));
    }
    let world =
        World { creator: cluster.device("creator", "laptop").await, author: cluster.device("author", "laptop").await };

    let mut wrong = Vec::new();
    let mut refusals = 0;
    for (what, answers) in table() {
        // Each is asked twice: by a token and by a certificate.
        let documented = answers.iter().flat_map(|answer| [answer, answer]);
        for ((caller, name, client), documented) in callers.iter().zip(documented) {
            let place = world.group(name).await;
            if what.starts_with("`Mark`") {
                // Marks are about what the inbox has.
                let has_it = ["creator", "author", "member", "former member"].contains(caller);
                let is_there = async || {
                    let page = client.list(None, 1_000).await.unwrap();
                    page.list.iter().any(|one| one.conversation == place.conversation())
                };
                wait_until_async("the inbox has the group", async || !has_it || is_there().await).await;
            }
            let before = world.history(&place).await;
            let answer = ask(client, &what, &place).await;
            let code = answer.as_ref().err().map(|refusal| refusal.code);
            let said = code.map_or_else(|| "ok".to_owned(), |code| format!("`{}`", code.name()));
            if said != *documented {
                wrong.push(format!("{what}, {caller}: {said}, documented: {documented}"));
            }
            let Err(refusal) = answer else { continue };
            refusals += 1;
            assert_eq!(world.history(&place).await, before, "{what}, {caller}: a refusal changed something");
            // The one refusal that says something, as documented: a group id is taken.
            let says_what_exists = refusal.code == ErrorCode::AlreadyExists;
            if matches!(*caller, "stranger" | "other tenant" | "scope `sequence`" | "no scope") && !says_what_exists {
                let nowhere = Place { group: new_group(), ..place };
                let of_nothing = ask(client, &what, &nowhere).await;
                assert_eq!(of_nothing, Err(refusal), "{what}, {caller}: the refusal tells what exists");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refusals > 50, "{refusals}");
    // What was said when he had gone is not a former member's.
    let place = world.group("former").await;
    world.author.send(place.conversation(), "among us").await.unwrap();
    let former = &callers.iter().find(|(caller, ..)| *caller == "former member").unwrap().2;
    let seen = former.history(&place.conversation(), None, 0).await.unwrap().entries;
    assert!(seen.iter().any(|entry| entry.conversation_seq == place.target), "{seen:?}");
    assert!(seen.iter().all(|entry| entry.conversation_seq <= place.removal), "{seen:?}");
    assert!(world.history(&place).await.iter().any(|entry| entry.conversation_seq > place.removal));
    // Nobody else's inbox has anything of the groups; the other tenant's user has made one of his own.
    for (caller, _, client) in callers.iter().filter(|(caller, ..)| ["stranger", "other tenant"].contains(caller)) {
        let page = client.sync(None, 0).await.unwrap();
        let is_own = |entry: &Entry| entry.kind == Kind::Create && entry.added == [user("bob")];
        let is_foreign = |entry: &&Entry| matches!(entry.conversation, Conversation::Group(_)) && !is_own(entry);
        assert_eq!(page.entries.iter().find(is_foreign), None, "{caller}");
    }
}
