//! Raftctl: what operators and their scripts rely on, against a real cluster: exit codes above all.

use crate::common::Cluster;
use serde_json::Value;
use seriatim_proto::ids::{TenantId, UserId};
use seriatim_proto::token::Minter;

/// Exit code, what is on stdout, stderr.
struct Said {
    exit: Option<i32>,
    json: Value,
    error: String,
}

/// Runs raftctl against the cluster, as a script would.
fn raftctl(cluster: &Cluster, arguments: &[&str]) -> Said {
    let mut all = vec!["--playground", cluster.data().to_str().unwrap(), "-o", "json", "--timeout", "3s"];
    all.extend(arguments);
    let (exit, out, error) = crate::common::run(&crate::common::sibling("raftctl"), &all);
    Said { exit, json: serde_json::from_str(&out).unwrap_or(Value::Null), error }
}

/// The error's sentence.
fn sentence(said: &Said) -> String {
    let error: Value = serde_json::from_str(said.error.lines().last().unwrap()).unwrap();
    error["message"].as_str().unwrap().to_owned()
}

fn is_healthy(cluster: &Cluster) -> bool {
    [&["cluster", "status"][..], &["raft", "groups"]].iter().all(|verb| raftctl(cluster, verb).exit == Some(0))
}

#[test]
fn a_message_sent_again_under_its_id_is_the_same_message() {
    let cluster = Cluster::start_plaintext();
    let id = "0190000000007000800000000000beef";
    let send = |more: &[&str]| raftctl(&cluster, &[&["send", "--as", "alice", "--to", "bob"], more].concat());
    let first = send(&["--message-id", id, "hello"]);
    assert_eq!((first.exit, &first.json["items"][0]["duplicate"]), (Some(0), &Value::Bool(false)), "{}", first.error);
    let second = send(&["--message-id", id, "hello"]);
    assert_eq!((second.exit, &second.json["items"][0]["duplicate"]), (Some(0), &Value::Bool(true)), "{}", second.error);
    assert_eq!(second.json["items"][0]["seq"], first.json["items"][0]["seq"]);
    let other = send(&["--message-id", id, "hallo"]);
    assert!(other.exit == Some(4) && other.error.contains("CONFLICT"), "{:?} {}", other.exit, other.error);

    // An id that raftctl made is as good.
    let first = send(&["again"]);
    let made = first.json["items"][0]["messageId"].as_str().unwrap();
    let second = send(&["--message-id", made, "again"]);
    assert_eq!((second.exit, &second.json["items"][0]["duplicate"]), (Some(0), &Value::Bool(true)), "{}", second.error);
    crate::common::wait_until("bob has two messages, not four", || {
        raftctl(&cluster, &["user", "tail", "bob"]).json["items"].as_array().is_some_and(|items| items.len() == 2)
    });
    assert_eq!(raftctl(&cluster, &["user", "verify", "bob"]).exit, Some(0));
}

#[test]
fn a_command_line_that_is_none_is_an_error_like_any_other() {
    let raftctl = crate::common::sibling("raftctl");
    for json in [&["-o", "json"][..], &["--output=json"], &["-ojson"]] {
        let (exit, out, error) = crate::common::run(&raftctl, &[&["user", "shwo", "alice"], json].concat());
        let error: Value = serde_json::from_str(&error).unwrap();
        assert_eq!((exit, out.as_str()), (Some(2), ""));
        assert_eq!((&error["kind"], &error["exit"]), (&Value::from("Error"), &Value::from(2)));
        assert!(error["message"].as_str().unwrap().contains("shwo"), "{error}");
    }
    let (exit, out, error) = crate::common::run(&raftctl, &["user", "shwo", "alice"]);
    assert!(exit == Some(2) && out.is_empty() && error.starts_with("error: unrecognized subcommand"), "{error}");
    let (exit, out, _) = crate::common::run(&raftctl, &["-o", "json", "user", "--help"]);
    assert!(exit == Some(0) && out.contains("Usage"), "{out}");
}

#[test]
fn a_ca_signs_for_devices_and_nodes_and_writes_over_nothing() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let run = |arguments: &[&str]| {
        let (exit, out, error) =
            crate::common::run(&crate::common::sibling("raftctl"), &[&["-o", "json", "cert"][..], arguments].concat());
        Said { exit, json: serde_json::from_str(&out).unwrap_or(Value::Null), error }
    };
    let mode = |name: &str| std::fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
    let made = run(&["init-ca", &path("ca"), "--name", "Ours", "--for", "100d"]);
    assert_eq!((made.exit, &made.json["items"][0]["isCa"]), (Some(0), &Value::Bool(true)), "{}", made.error);
    assert_eq!((mode("ca/ca-key.pem"), mode("ca/ca.pem")), (0o600, 0o644));
    let before = std::fs::read(path("ca/ca-key.pem")).unwrap();
    let again = run(&["init-ca", &path("ca")]);
    assert!(again.exit == Some(4) && sentence(&again).contains("not written over"), "{}", again.error);
    assert_eq!(std::fs::read(path("ca/ca-key.pem")).unwrap(), before);

    let issue = |out: &str, more: &[&str]| run(&[&["issue", &path("ca"), "--out", &path(out)][..], more].concat());
    let device = issue("alice", &["--user", "jürgen/2", "--tenant", "7", "--scopes", "sequence", "--for", "12h"]);
    assert_eq!(device.exit, Some(0), "{}", device.error);
    assert_eq!((mode("alice-key.pem"), mode("alice.pem")), (0o600, 0o644));
    let node = issue("s1", &["--role", "store", "--name", "s1", "--host", "s1.example", "--host", "10.0.0.1"]);
    assert_eq!(node.exit, Some(0), "{}", node.error);
    assert_eq!(issue("admin", &["--role", "admin", "--name", "ops"]).exit, Some(0));

    let shown = run(&["show", &path("alice.pem"), &path("s1.pem"), &path("ca/ca.pem")]);
    let items = shown.json["items"].as_array().unwrap();
    assert_eq!((items[0]["tenant"].as_u64(), &items[0]["user"]), (Some(7), &Value::from("jürgen/2")));
    assert_eq!((&items[0]["scopes"], &items[0]["role"]), (&serde_json::json!(["sequence"]), &Value::Null));
    assert_eq!(items[0]["names"][0], "seriatim://7/j%C3%BCrgen%2F2?scopes=sequence");
    let left: u64 = items[0]["secondsLeft"].as_str().unwrap().parse().unwrap();
    assert!((11 * 3_600..=12 * 3_600).contains(&left), "{left}");
    assert_eq!((&items[1]["role"], &items[1]["node"]), (&Value::from("store"), &Value::from("s1")));
    assert_eq!(items[1]["names"], serde_json::json!(["s1.example", "10.0.0.1", "seriatim-node://store/s1"]));
    assert!(items[0]["issuer"].as_str().unwrap().contains("Ours") && items[2]["isCa"] == true, "{items:?}");

    // Nothing is written for what is refused.
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    let count = names();
    std::fs::write(path("garbage"), "nothing").unwrap();
    for (more, exit, why) in [
        (&["--user", "alice"][..], 4, "not written over"),
        (&["--user", "a\nb"], 2, "control characters"),
        (&["--user", ""], 2, "the user"),
        (&["--user", "alice", "--scopes", "admin"], 2, "is no scope"),
        (&["--user", "alice", "--host", "x"], 2, "neither --host nor --name"),
        (&["--user", "alice", "--role", "store"], 2, "cannot be used with"),
        (&["--role", "king", "--name", "x"], 2, "is no role"),
        (&["--role", "store", "--name", "x"], 2, "--host HOST is missing"),
        (&["--role", "store", "--host", "x"], 2, "--name NAME is missing"),
        (&["--role", "admin", "--name", "x", "--host", "x"], 2, "listens nowhere"),
        (&["--user", "alice", "--for", "0s"], 2, "longer than nothing"),
        (&["--user", "alice", "--for", "101d"], 4, "outlive its CA"),
        (&[], 2, "required"),
    ] {
        let out = if exit == 4 && why.starts_with("not") { "alice" } else { "new" };
        let said = issue(out, more);
        assert!(said.exit == Some(exit) && sentence(&said).contains(why), "{more:?}: {:?} {}", said.exit, said.error);
    }
    assert_eq!(names(), count + 1, "the garbage");

    // A CA that is none.
    std::fs::copy(path("s1-key.pem"), path("ca/ca-key.pem")).unwrap();
    let said = issue("new", &["--user", "alice"]);
    assert!(said.exit == Some(2) && sentence(&said).contains("not the key of"), "{}", said.error);
    std::fs::copy(path("s1.pem"), path("ca/ca.pem")).unwrap();
    let said = issue("new", &["--user", "alice"]);
    assert!(said.exit == Some(2) && sentence(&said).contains("no CA"), "{}", said.error);
    for (arguments, why) in [
        (&["issue", &path("none"), "--user", "a", "--out", &path("new")][..], "failed to read"),
        (&["show", &path("garbage")], "no certificate in it"),
        (&["show", &path("none")], "failed to read"),
        (&["show", &path("s1-key.pem")], "no certificate in it"),
    ] {
        let said = run(arguments);
        assert!(said.exit == Some(2) && sentence(&said).contains(why), "{arguments:?}: {}", said.error);
    }
}

#[test]
fn a_token_is_inspected_and_says_why_it_is_refused() {
    // Nothing of it needs a cluster.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(path("key"), key.serialize_pem()).unwrap();
    std::fs::write(path("public"), key.public_key_pem()).unwrap();
    let run = |arguments: &[&str]| {
        let all = [&["-o", "json", "--endpoints", "127.0.0.1:1"], arguments].concat();
        let (exit, out, error) = crate::common::run(&crate::common::sibling("raftctl"), &all);
        let json = serde_json::from_str(&out).unwrap_or_else(|_| Value::from(out.trim()));
        Said { exit, json, error }
    };
    let mint = |more: &[&str]| run(&[&["--dev-key", &path("key"), "auth", "mint", "alice"], more].concat());
    let good = mint(&["--scopes", "device,sequence"]);
    assert_eq!(good.exit, Some(0), "{}", good.error);
    std::fs::write(path("token"), good.json.as_str().unwrap()).unwrap();
    let inspect =
        |token: &str, keys: &str| run(&["--token-file", &path(token), "auth", "inspect", "--keys", &path(keys)]);
    let said = inspect("token", "public");
    let item = &said.json["items"][0];
    assert_eq!((said.exit, &item["accepted"], &item["claims"]["sub"]), (Some(0), &true.into(), &"alice".into()));
    assert_eq!(item["claims"]["scopes"], serde_json::json!(["device", "sequence"]));

    // Against other keys, when it is over, and when it is none.
    std::fs::write(
        path("jwks"),
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"x","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty":"oct","k":"c2VjcmV0","kid":"y"}]}"#,
    )
    .unwrap();
    let minter = Minter::from_private_pem(key.serialize_pem().as_bytes()).unwrap();
    std::fs::write(path("over"), minter.mint(TenantId(1), &UserId::new("alice").unwrap(), 1_000).unwrap()).unwrap();
    std::fs::write(path("none"), "hello").unwrap();
    for (token, keys, reason) in
        [("token", "jwks", "signature"), ("over", "public", "expired"), ("none", "public", "malformed")]
    {
        let said = inspect(token, keys);
        let item = &said.json["items"][0];
        assert_eq!((said.exit, &item["accepted"], &item["reason"]), (Some(5), &false.into(), &reason.into()));
        let text = item["message"].as_str().unwrap();
        assert!(text.starts_with("refused: "), "{text}");
    }

    let keys = run(&["auth", "keys", "--keys", &path("jwks")]);
    let used: Vec<_> = keys.json["items"].as_array().unwrap().iter().map(|key| key["used"] == true).collect();
    assert_eq!((keys.exit, used), (Some(0), vec![true, false]));
    assert!(keys.json["items"][1]["reason"].as_str().unwrap().contains("secret"));
    for (arguments, said) in [
        (&["auth", "keys"][..], "--keys FILE is missing"),
        (&["auth", "keys", "--keys", &path("none")], "neither a JWKS"),
        (&["auth", "inspect", "--keys", &path("public")], "--token-file is missing"),
        (&["auth", "mint", "alice"], "--dev-key is missing"),
    ] {
        let failed = run(arguments);
        assert!(failed.exit == Some(2) && sentence(&failed).contains(said), "{arguments:?}: {}", failed.error);
    }
    let failed = mint(&["--scopes", "everything"]);
    assert!(failed.exit == Some(2) && sentence(&failed).contains("everything"), "{}", failed.error);
}

#[test]
fn a_user_to_whom_nothing_came_is_not_found_by_any_verb() {
    let cluster = Cluster::start_plaintext();
    let show = raftctl(&cluster, &["user", "show", "nobody"]);
    assert_eq!(show.exit, Some(3), "{}", show.error);
    for verb in ["tail", "verify"] {
        let said = raftctl(&cluster, &["user", verb, "nobody"]);
        assert_eq!((said.exit, sentence(&said)), (Some(3), sentence(&show)), "{verb}: {}", said.error);
    }
}

#[test]
fn without_a_quorum_every_verb_says_so() {
    let cluster = Cluster::start_plaintext();
    let sent = raftctl(&cluster, &["send", "--as", "alice", "--to", "bob", "hello"]);
    assert_eq!(sent.exit, Some(0), "{}", sent.error);
    crate::common::wait_until("the cluster is healthy", || is_healthy(&cluster));

    // A minority: all goes on, and raftctl says what is not there.
    cluster.kill("store-3");
    crate::common::wait_until("the others lead all groups", || {
        let said = raftctl(&cluster, &["cluster", "status"]);
        assert_eq!(said.exit, Some(10), "{}", said.error);
        !said.error.contains("group")
    });
    let groups = raftctl(&cluster, &["raft", "groups"]);
    assert_eq!(groups.exit, Some(10), "{}", groups.error);
    let unreachable = |row: &&Value| row["store"] == "3" && row["role"] == "unreachable";
    assert_eq!(groups.json["items"].as_array().unwrap().iter().filter(unreachable).count(), 5, "{}", groups.json);
    let verified = raftctl(&cluster, &["user", "verify", "bob"]);
    assert_eq!(verified.exit, Some(10), "{}", verified.error);

    // A majority: whoever is left cannot lead, whatever it calls itself.
    cluster.kill("store-2");
    for verb in [&["cluster", "status"][..], &["raft", "groups"]] {
        let said = raftctl(&cluster, verb);
        assert_eq!(said.exit, Some(10), "{verb:?}: {}", said.error);
        for group in 0..5 {
            assert!(
                said.error.contains(&format!("group {group}: no quorum, 1 of 3 voters")),
                "{verb:?}: {}",
                said.error
            );
        }
        let items = said.json["items"].as_array().unwrap();
        let leads = |item: &Value| item["leads"].as_array().is_some_and(|groups| !groups.is_empty());
        assert!(!items.iter().any(leads), "{verb:?}: {}", said.json);
    }
    for verb in [
        &["node", "ls"][..],
        &["user", "show", "bob"],
        &["user", "tail", "bob"],
        &["user", "verify", "bob"],
        &["seq", "next", "shell"],
        &["seq", "show", "shell"],
        &["tenant", "ls"],
    ] {
        let said = raftctl(&cluster, verb);
        assert_eq!(said.exit, Some(7), "{verb:?}: {}", said.error);
        assert!(!said.error.contains("--message-id"), "{verb:?} sends nothing: {}", said.error);
    }
    let said = raftctl(&cluster, &["send", "--as", "alice", "--to", "bob", "into the void"]);
    assert_eq!(said.exit, Some(7), "{}", said.error);

    // With the quorum back, a silent gateway is a silent gateway.
    cluster.start_node("store-2");
    cluster.start_node("store-3");
    crate::common::wait_until("the cluster is healthy", || is_healthy(&cluster));
    crate::common::wait_until("bob can be read", || raftctl(&cluster, &["user", "verify", "bob"]).exit == Some(0));
    cluster.kill("gateway-1");
    let said = raftctl(&cluster, &["user", "tail", "bob"]);
    assert_eq!(said.exit, Some(6), "{}", said.error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_joins_takes_its_share_is_drained_and_removed() {
    let cluster = Cluster::start_plaintext();
    let alice = cluster.device("alice", "phone").await;
    let send = async |text: &str| {
        alice.send(seriatim_client::Conversation::peer("bob").unwrap(), text.to_owned()).await.unwrap();
    };
    send("before").await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let arguments =
        ["store", "--data-dir", &data, "--listen", "127.0.0.1:0", "--insecure-plaintext", "--exit-with-parent"];
    let fourth = crate::common::Process::start(&arguments);
    let groups = |id: &str| {
        let nodes = raftctl(&cluster, &["node", "ls"]).json;
        let found = nodes["items"].as_array().unwrap().iter().find(|node| node["id"] == id && node["role"] == "store");
        found.map(|node| node["groups"].as_array().unwrap().len())
    };
    let moves = || raftctl(&cluster, &["raft", "moves"]).json["items"].as_array().map(Vec::len);

    // Nobody answers there; nothing is there; the wrong confirmation.
    assert_eq!(raftctl(&cluster, &["node", "join", "127.0.0.1:9"]).exit, Some(6));
    assert_eq!(raftctl(&cluster, &["node", "drain", "9"]).exit, Some(3));
    assert_eq!(raftctl(&cluster, &["node", "remove", "9", "--confirm", "9"]).exit, Some(3));
    assert_eq!(raftctl(&cluster, &["node", "remove", "1"]).exit, Some(2));
    assert_eq!(raftctl(&cluster, &["node", "remove", "1", "--confirm", "1"]).exit, Some(4));
    assert_eq!(raftctl(&cluster, &["raft", "move", "1", "--from", "1", "--to", "2"]).exit, Some(4));
    assert_eq!(raftctl(&cluster, &["raft", "move", "0", "--from", "1"]).exit, Some(2));
    assert_eq!(raftctl(&cluster, &["raft", "cancel-move", "1"]).exit, Some(0));
    assert_eq!(raftctl(&cluster, &["raft", "transfer", "1", "--to", "9"]).exit, Some(4));
    assert_eq!(raftctl(&cluster, &["raft", "transfer", "9", "--to", "1"]).exit, Some(3));

    // Each of its stores in turn is made the leader of a group, whoever led it before.
    for store in ["1", "2", "3"] {
        let moved = raftctl(&cluster, &["raft", "transfer", "1", "--to", store]);
        assert_eq!(moved.exit, Some(0), "{}", moved.error);
        assert_eq!(moved.json["items"][0]["leader"], store);
        let plan = raftctl(&cluster, &["raft", "transfer", "1", "--to", "1", "--dry-run"]);
        assert_eq!((plan.exit, &plan.json["items"][0]["leader"]), (Some(0), &store.into()), "{}", plan.error);
    }
    send("under other leaders").await;

    let joined = raftctl(&cluster, &["node", "join", fourth.address()]);
    assert_eq!(joined.exit, Some(0), "{}", joined.error);
    assert_eq!(raftctl(&cluster, &["node", "join", fourth.address()]).exit, Some(0), "again: nothing changes");
    // Its share: 4 groups of three on four stores.
    crate::common::wait_until("the new store has its share", || groups("4") == Some(3) && moves() == Some(0));
    send("while it is there").await;
    let plan = raftctl(&cluster, &["raft", "move", "1", "--from", "4", "--dry-run"]);
    assert!(plan.exit == Some(0) && plan.error.contains("voters 3 -> 2"), "{}", plan.error);

    assert_eq!(raftctl(&cluster, &["node", "remove", "4", "--confirm", "4"]).exit, Some(4), "it is not empty");
    let drained = raftctl(&cluster, &["node", "drain", "4", "--wait", "60s"]);
    assert_eq!(drained.exit, Some(0), "{}", drained.error);
    crate::common::wait_until("all moves have ended", || moves() == Some(0));
    assert_eq!(raftctl(&cluster, &["node", "remove", "4", "--confirm", "4"]).exit, Some(0));
    assert_eq!(groups("4"), None);
    drop(fourth);
    send("after").await;
    assert_eq!(alice.connections(), 1);
    let bob = cluster.device("bob", "phone").await;
    crate::common::wait_until_async("bob has all four", async || bob.sync(None, 0).await.unwrap().entries.len() == 4)
        .await;
    assert_eq!(raftctl(&cluster, &["user", "verify", "bob"]).exit, Some(0));
    crate::common::wait_until("the cluster is healthy", || is_healthy(&cluster));
}

#[test]
fn a_rotten_store_raises_an_alarm_and_is_rebuilt_by_itself() {
    let cluster = Cluster::start_plaintext();
    let sent = raftctl(&cluster, &["send", "--as", "alice", "--to", "bob", "before"]);
    assert_eq!(sent.exit, Some(0), "{}", sent.error);
    crate::common::wait_until("the cluster is healthy", || is_healthy(&cluster));
    let none = raftctl(&cluster, &["alarm", "ls"]);
    assert_eq!((none.exit, none.json["items"].as_array().unwrap().len()), (Some(0), 0), "{}", none.error);
    let replicas = || {
        let groups = raftctl(&cluster, &["raft", "groups"]).json;
        let of_third = |row: &&Value| row["store"] == "3" && row["replica"].is_string();
        let ids = groups["items"].as_array().unwrap().iter().filter(of_third).map(|row| row["replica"].clone());
        ids.collect::<Vec<_>>()
    };
    let before = replicas();
    assert_eq!(before.len(), 5);

    // Its votes are gone, so nothing of it may take part any more.
    cluster.kill("store-3");
    let mark = cluster.data().join("store-3").join("watermark");
    std::fs::OpenOptions::new().write(true).open(mark).unwrap().set_len(10).unwrap();
    cluster.start_node("store-3");
    let mut alarms = Value::Null;
    crate::common::wait_until("the alarm is raised", || {
        let said = raftctl(&cluster, &["alarm", "ls"]);
        alarms = said.json;
        said.exit == Some(10) && alarms["items"].as_array().unwrap().iter().any(|row| row["alarm"] == "rot")
    });
    assert!(alarms["items"].as_array().unwrap().iter().all(|row| row["store"] == "3"), "{alarms}");
    let sent = raftctl(&cluster, &["send", "--as", "alice", "--to", "bob", "meanwhile"]);
    assert_eq!(sent.exit, Some(0), "{}", sent.error);
    crate::common::wait_until("the alarm is over", || raftctl(&cluster, &["alarm", "ls"]).exit == Some(0));
    crate::common::wait_until("the cluster is healthy", || is_healthy(&cluster));
    let after = replicas();
    assert_eq!(after.len(), 5);
    assert!(after.iter().all(|id| !before.contains(id)), "no id comes back: {before:?} {after:?}");
    assert_eq!(raftctl(&cluster, &["user", "verify", "bob"]).exit, Some(0));
}
