//! Cli: every group, verb and flag on one screen.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::meta::Limit;

/// The operator's view of a Seriatim cluster.
#[derive(Debug, Parser)]
#[command(name = "raftctl", version, infer_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) group: Group,
}

/// What every verb has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// how to print data
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// host:port of stores, comma-separated
    #[arg(short, long, global = true, value_delimiter = ',', env = "RAFTCTL_ENDPOINTS")]
    pub(crate) endpoints: Vec<String>,
    /// host:port of a gateway (QUIC)
    #[arg(long, global = true, env = "RAFTCTL_GATEWAY")]
    pub(crate) gateway: Option<String>,
    /// host:port of gateways' doors for operators, comma-separated: name all of them
    #[arg(long, global = true, value_delimiter = ',', env = "RAFTCTL_GATEWAY_OPERATORS")]
    pub(crate) gateway_operators: Vec<String>,
    /// PEM file of the CA that signed the gateway's certificate
    #[arg(long, global = true, env = "RAFTCTL_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// PEM file of the CAs of the cluster's nodes: with --cert and --key, stores, logic nodes and gateways' doors for
    /// operators are asked over TLS
    #[arg(long, global = true, env = "RAFTCTL_CACERT", value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// PEM file of an operator's certificate, `raftctl cert issue --role admin`
    #[arg(long, global = true, env = "RAFTCTL_CERT", value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, global = true, env = "RAFTCTL_KEY", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// development only: stores and gateways' doors for operators are asked without TLS
    #[arg(long, global = true, env = "RAFTCTL_INSECURE_PLAINTEXT")]
    pub(crate) insecure_plaintext: bool,
    /// file with a token; `-` is stdin
    #[arg(long, global = true, env = "RAFTCTL_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file of a development signing key: mints a token for the user in question
    #[arg(long, global = true, env = "RAFTCTL_DEV_KEY")]
    pub(crate) dev_key: Option<PathBuf>,
    /// data folder of a playground: answers all of the above; the last one started if none is named
    #[arg(long, global = true, env = "RAFTCTL_PLAYGROUND")]
    pub(crate) playground: Option<PathBuf>,
    /// which tenant
    #[arg(long, global = true)]
    pub(crate) tenant: Option<u32>,
    /// longest wait for one answer, such as 5s or 500ms
    #[arg(long, global = true, default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// Whether a command line asks for JSON, also one that cannot be understood otherwise.
pub(crate) fn wants_json(arguments: impl Iterator<Item = std::ffi::OsString>) -> bool {
    let mut is_value = false;
    arguments.take_while(|argument| argument != "--").any(|argument| {
        let asked = ["-ojson", "-o=json", "--output=json"].iter().any(|&form| argument == form);
        let value = std::mem::replace(&mut is_value, argument == "-o" || argument == "--output");
        asked || (value && argument == "json")
    })
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// for people
    Table,
    /// for programs: a versioned contract
    Json,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    /// the cluster as a whole
    #[command(subcommand)]
    Cluster(Cluster),
    /// Raft groups and their replicas
    #[command(subcommand)]
    Raft(Raft),
    /// stores, logic nodes and gateways
    #[command(subcommand, visible_alias = "nodes")]
    Node(Node),
    /// what a human should know of
    #[command(subcommand, visible_alias = "alarms")]
    Alarm(Alarm),
    /// prove that what is stored is right
    #[command(subcommand)]
    Check(Check),
    /// gateways: how they are, drain them, have their certificates read anew
    #[command(subcommand, visible_alias = "gateways")]
    Gateway(Gateway),
    /// sessions of devices, over all gateways
    #[command(subcommand, visible_alias = "sessions")]
    Session(Session),
    /// a user's inbox
    #[command(subcommand, visible_alias = "users")]
    User(User),
    /// counters of the sequence service
    #[command(subcommand)]
    Seq(Counter),
    /// send a message as a user, through the gateway
    Send(Send),
    /// what tenants and their users may ask of each logic node
    #[command(subcommand, visible_alias = "tenants")]
    Tenant(Tenant),
    /// tokens, and the keys that verify them
    #[command(subcommand)]
    Auth(Auth),
    /// certificates: a CA of one's own, for devices and for nodes
    #[command(subcommand, visible_alias = "certs")]
    Cert(Cert),
    /// messages: what became of them, and what their authors and readers say about them
    #[command(subcommand)]
    Msg(Msg),
    /// a conversation: its numbers, its members, its pins
    #[command(subcommand, visible_alias = "conversations")]
    Conversation(Conversation),
    /// hold a gateway against the numbered claims of docs/conformance.md; exits 12 if a case fails
    Conformance(Conformance),
    /// the processes of a playground
    #[command(subcommand)]
    Playground(Playground),
    /// help on a topic or a command
    Help {
        /// `exit-codes`, or a command
        topic: Vec<String>,
    },
}

/// `raftctl cluster`
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// make a cluster of the stores named by --endpoints
    Init {
        /// data groups
        #[arg(long, default_value_t = seriatim_proto::limits::GROUPS_DEFAULT)]
        groups: u32,
        /// replicas of each group: 1, 3 or 5, on different stores; three unless told otherwise, if there are as many
        #[arg(long)]
        replicas: Option<u32>,
    },
    /// every store and how it is; exits 10 if the cluster is not healthy
    Status,
}

/// `raftctl raft`
#[derive(Debug, Subcommand)]
pub(crate) enum Raft {
    /// every replica of every group; exits 10 if a group has no leader or a voter has no replica
    Groups,
    /// replicas that move, and how far they are
    Moves,
    /// move a replica of a group from one store to another
    Move {
        /// which group
        group: u32,
        /// id of the store that loses its replica; without it the group gets one more
        #[arg(long, required_unless_present = "to")]
        from: Option<u64>,
        /// id of the store that gets one; without it the group has one less
        #[arg(long)]
        to: Option<u64>,
        /// only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
    /// turn a move back: what was to join leaves, what was to leave stays
    CancelMove {
        /// of which group
        group: u32,
    },
    /// give the leadership of a group to another of its stores; after a calm while it goes back to where it belongs
    Transfer {
        /// which group
        group: u32,
        /// id of the store that should lead it
        #[arg(long)]
        to: u64,
        /// only say what would happen
        #[arg(long)]
        dry_run: bool,
    },
}

/// `raftctl node`
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// all nodes that the cluster knows
    #[command(alias = "list")]
    Ls,
    /// take a running, empty store into the cluster; replicas move to it by themselves
    Join {
        /// its host:port
        address: String,
    },
    /// let all replicas of a store move away, and give it none; exits 10 while it still has some
    Drain {
        /// its id
        store: u64,
        /// wait until it has none, as long as this
        #[arg(long, value_parser = duration, value_name = "TIME")]
        wait: Option<Duration>,
    },
    /// a store that was drained gets replicas again
    Undrain {
        /// its id
        store: u64,
    },
    /// forget a store that has no replicas any more; its id never comes back
    Remove {
        /// its id
        store: u64,
        /// the same id again, to be sure
        #[arg(long, value_name = "ID")]
        confirm: Option<u64>,
    },
}

/// `raftctl gateway`
#[derive(Debug, Subcommand)]
pub(crate) enum Gateway {
    /// every gateway and how it is; exits 10 if one does not answer
    #[command(alias = "list")]
    Ls,
    /// one gateway: connections, sessions, what waits, its certificate
    #[command(alias = "describe")]
    Show {
        /// its name, address or door for operators
        gateway: String,
    },
    /// take no new devices and send those that are here elsewhere; exits 10 if some are left after the deadline
    Drain {
        /// its name, address or door for operators
        gateway: String,
        /// who is still there then is closed; an hour at most
        #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
        deadline: Duration,
        /// take devices again
        #[arg(long, conflicts_with = "deadline")]
        undo: bool,
        /// only say what would happen
        #[arg(long)]
        dry_run: bool,
        /// do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// read the files of the certificate anew, now; exits 4 if they cannot be used: what was served is served on
    ReloadCert {
        /// its name, address or door for operators
        gateway: String,
    },
}

/// `raftctl session`
#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// sessions, oldest of each gateway first; exits 6 if a gateway does not answer
    #[command(alias = "list")]
    Ls(SessionLs),
    /// one session
    #[command(alias = "describe")]
    Show {
        /// as ls shows it, such as gateway-1/3f2a-17
        id: String,
    },
    /// end sessions with KICKED: their devices are told not to come back by themselves
    Kick(Kick),
}

/// `raftctl session ls`
#[derive(Debug, Args)]
pub(crate) struct SessionLs {
    /// only of this user (of the tenant of --tenant, or of all)
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// only of devices of this name
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// only at this gateway
    #[arg(long, value_name = "GATEWAY")]
    pub(crate) gw: Option<String>,
    /// only those that came this way
    #[arg(long, value_enum)]
    pub(crate) transport: Option<Transport>,
    /// how many
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
}

/// `raftctl session kick`
#[derive(Debug, Args)]
pub(crate) struct Kick {
    /// a session, as ls shows it
    #[arg(required_unless_present = "user", conflicts_with_all = ["user", "device"])]
    pub(crate) id: Option<String>,
    /// all sessions of this user, of the tenant of --tenant (1 unless given)
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// only those of his device of this name
    #[arg(long, requires = "user")]
    pub(crate) device: Option<String>,
    /// only say what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `raftctl alarm`
#[derive(Debug, Subcommand)]
pub(crate) enum Alarm {
    /// rotten replicas and full disks, and what is done about them; exits 10 if there are any
    #[command(alias = "list")]
    Ls,
    /// take back what was said of a replica that is not rotten; refused once another is made in its place
    Withdraw {
        /// of which group
        group: u32,
        /// which replica
        replica: u64,
        /// only say what would happen
        #[arg(long)]
        dry_run: bool,
        /// the id of the replica again, to be sure
        #[arg(long, value_name = "REPLICA")]
        confirm: Option<u64>,
    },
}

/// `raftctl check`
#[derive(Debug, Subcommand)]
pub(crate) enum Check {
    /// have all replicas of each group read their rows as they are at one entry, and compare what they found;
    /// exits 12 if some differ, 10 if not all are done in time
    Replicas {
        /// only these groups, comma-separated
        #[arg(long, value_delimiter = ',', value_name = "GROUP")]
        groups: Vec<u32>,
        /// wait as long as this
        #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
        wait: Duration,
    },
}

/// `raftctl user`
#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// where an inbox lives, its numbers, its devices' cursors
    #[command(alias = "describe")]
    Show {
        /// whose
        user: String,
    },
    /// the last entries of an inbox
    Tail {
        /// whose
        user: String,
        /// go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// how many
        #[arg(short, long, default_value_t = 10)]
        lines: usize,
        /// all entries from this seq on
        #[arg(long, conflicts_with = "lines")]
        from: Option<u64>,
    },
    /// read an inbox again, from all replicas, and prove that nothing is missing, doubled or out of order;
    /// exits 12 if something is
    Verify {
        /// whose
        user: String,
    },
}

/// `raftctl seq`
#[derive(Debug, Subcommand)]
pub(crate) enum Counter {
    /// take numbers of a counter, through the gateway; they are yours for ever
    Next {
        /// which counter
        counter: String,
        /// how many
        #[arg(short = 'n', long, default_value_t = 1)]
        count: u32,
        /// who asks, with a signing key
        #[arg(long = "as", default_value = "raftctl")]
        user: String,
    },
    /// where a counter stands: every number given so far is below
    Current {
        /// which counter
        counter: String,
        /// who asks, with a signing key
        #[arg(long = "as", default_value = "raftctl")]
        user: String,
    },
    /// where a counter lives and what is reserved of it, from its group's leader
    #[command(alias = "describe")]
    Show {
        /// which counter
        counter: String,
    },
}

/// `raftctl tenant`
#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// tenants with limits of their own
    #[command(alias = "list")]
    Ls,
    /// every limit of a tenant
    #[command(alias = "describe")]
    Show {
        /// its number
        id: u32,
    },
    /// change limits of a tenant, on all nodes, from now on; retention-… gives up messages for ever
    Set {
        /// its number
        id: u32,
        /// such as user-writes-per-s=100, or user-writes-per-s=default; 0 refuses everything
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = limit)]
        limits: Vec<(Limit, Option<u32>)>,
        /// only say what would change
        #[arg(long)]
        dry_run: bool,
        /// the tenant's number again, to be sure, where less is kept than before
        #[arg(long, value_name = "TENANT")]
        confirm: Option<u32>,
    },
    /// back to what the logic nodes give every tenant
    Reset {
        /// its number
        id: u32,
        /// only say what would change
        #[arg(long)]
        dry_run: bool,
    },
}

fn limit(text: &str) -> Result<(Limit, Option<u32>), String> {
    Limit::parse(text)
}

/// `raftctl cert`
#[derive(Debug, Subcommand)]
pub(crate) enum Cert {
    /// make a CA in a folder: ca.pem, and ca-key.pem for its owner alone
    InitCa {
        /// made if it is not there
        folder: PathBuf,
        /// of the CA, for people
        #[arg(long, default_value = "Seriatim CA")]
        name: String,
        /// how long it is good, such as 3650d
        #[arg(long = "for", value_name = "TIME", default_value = "3650d", value_parser = life)]
        life: Duration,
    },
    /// sign a certificate for a device of a user (--user, --tenant) or for a node (--role, --name)
    Issue(Box<Issue>),
    /// what the certificates of files say
    Show {
        /// PEM
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// what a running gateway serves; exits 10 if it ends soon or is not trusted
    Status {
        /// how soon is soon
        #[arg(long, value_name = "TIME", default_value = "14d", value_parser = life)]
        within: Duration,
    },
    /// what stores, logic nodes and gateways show each other; exits 10 if one ends soon, or is not taken
    Nodes {
        /// how soon is soon
        #[arg(long, value_name = "TIME", default_value = "14d", value_parser = life)]
        within: Duration,
    },
}

/// `raftctl cert issue`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["user", "role"])))]
pub(crate) struct Issue {
    /// folder of a CA, as init-ca made it
    pub(crate) ca_folder: PathBuf,
    /// for a device of this user, of the tenant of --tenant (1 unless given)
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// what it allows: device, sequence; a device unless given
    #[arg(long, value_delimiter = ',')]
    pub(crate) scopes: Vec<String>,
    /// for a node: store, logic, gateway, application or admin
    #[arg(long, value_parser = clap::value_parser!(NodeRole))]
    pub(crate) role: Option<NodeRole>,
    /// which node, for people
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// names and addresses by which the node is reached, repeated
    #[arg(long = "host", value_name = "HOST")]
    pub(crate) hosts: Vec<String>,
    /// writes OUT.pem, and OUT-key.pem for its owner alone; neither may be there
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// how long it is good, such as 90d or 12h
    #[arg(long = "for", value_name = "TIME", default_value = "90d", value_parser = life)]
    pub(crate) life: Duration,
}

/// `raftctl auth`
#[derive(Debug, Subcommand)]
pub(crate) enum Auth {
    /// what a token (--token-file) says, and whether these keys take it; exits 5 with the reason if they do not
    Inspect {
        /// file of a JWKS, or of a public key as PEM; of the playground unless given
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
    /// the keys of a file, and which of them cannot be used and why
    Keys {
        /// file of a JWKS, or of a public key as PEM; of the playground unless given
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
    /// print a token that a development key (--dev-key) signs
    Mint {
        /// whose
        user: String,
        /// what it allows: device, sequence; a device unless given
        #[arg(long, value_delimiter = ',')]
        scopes: Vec<String>,
        /// how long it is good, such as 600s
        #[arg(long = "for", value_name = "TIME", default_value = "3600s", value_parser = duration)]
        life: Duration,
    },
}

/// `raftctl msg`
#[derive(Debug, Subcommand)]
pub(crate) enum Msg {
    /// what became of a send: committed, cancelled, expired, or nobody knows yet
    Status(MsgOf),
    /// settle a send: if its message is not in the conversation, it never will be; exits 4 if it is, or expired
    Cancel(MsgOf),
    /// what an entry is and what became of it, from its group's leader: edits, recall, reactions, pin; never its body
    #[command(alias = "describe")]
    Show(Target),
    /// give a message of one's own another body
    Edit {
        #[command(flatten)]
        of: Target,
        /// what it says from now on
        text: String,
    },
    /// erase the body of a message of one's own, and those of its edits, for everybody
    Recall(Target),
    /// set a reaction to a message
    React {
        #[command(flatten)]
        of: Target,
        /// which, such as an emoji
        emoji: String,
        /// take it back
        #[arg(long)]
        unset: bool,
    },
    /// pin a message for all members
    Pin {
        #[command(flatten)]
        of: Target,
        /// unpin it
        #[arg(long)]
        unset: bool,
    },
}

/// `raftctl conversation`
#[derive(Debug, Subcommand)]
pub(crate) enum Conversation {
    /// where it lives, its numbers, members and pins, and how far it is delivered, from its group's leader
    #[command(alias = "describe")]
    Show(Route),
    /// a user's conversations and what he has not read of each, through the gateway
    #[command(alias = "list")]
    Ls {
        /// whose; needed with a signing key, and known from a token
        #[arg(long = "as")]
        user: Option<String>,
    },
}

/// An entry of a conversation.
#[derive(Debug, Args)]
pub(crate) struct Target {
    #[command(flatten)]
    pub(crate) route: Route,
    /// its seq in the conversation
    pub(crate) seq: u64,
}

/// A message id of a sender.
#[derive(Debug, Args)]
pub(crate) struct MsgOf {
    #[command(flatten)]
    pub(crate) route: Route,
    /// the conversation's tail that the sender knew before the first attempt, 0 for none
    #[arg(long, default_value_t = 0)]
    pub(crate) known: u64,
    /// the message id, 32 hexadecimal digits
    pub(crate) message_id: String,
}

/// From whom, and to whom.
#[derive(Debug, Args)]
pub(crate) struct Route {
    /// the other user of a direct conversation
    #[arg(long, required_unless_present = "group", conflicts_with = "group")]
    pub(crate) to: Option<String>,
    /// a group's id, 32 hexadecimal digits
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// who sends; needed with a signing key, and known from a token
    #[arg(long = "as")]
    pub(crate) sender: Option<String>,
}

/// `raftctl send`
#[derive(Debug, Args)]
pub(crate) struct Send {
    #[command(flatten)]
    pub(crate) route: Route,
    /// send under this message id, 32 hexadecimal digits: repeats nothing that is committed already
    #[arg(long)]
    pub(crate) message_id: Option<String>,
    /// what to say
    pub(crate) text: String,
}

/// `raftctl conformance`
#[derive(Debug, Args)]
pub(crate) struct Conformance {
    /// host:port of the gateway that is judged; the same as --gateway
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) target: Option<String>,
    /// the ways in, comma-separated: all cases on each of them
    #[arg(long, value_enum, value_delimiter = ',', default_value = "quic")]
    pub(crate) transport: Vec<Transport>,
    /// only these cases, comma-separated, such as C-014 or C-02x
    #[arg(long = "case", value_name = "CASE", value_delimiter = ',')]
    pub(crate) cases: Vec<String>,
    /// only show the cases, what they claim and whom they judge
    #[arg(long)]
    pub(crate) list: bool,
    /// file with the token of a second user, where the first one's is in --token-file; what needs more is skipped
    #[arg(long, value_name = "FILE")]
    pub(crate) peer_token_file: Option<PathBuf>,
    /// file with a token of the scope `sequence`, beside --token-file
    #[arg(long, value_name = "FILE")]
    pub(crate) sequence_token_file: Option<PathBuf>,
}

/// A way into a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// native QUIC
    Quic,
    /// WebTransport over HTTP/3
    Webtransport,
    /// WebSocket over TLS
    Websocket,
}

/// `raftctl playground`
#[derive(Debug, Subcommand)]
pub(crate) enum Playground {
    /// start one here (the same as `seriatim playground`)
    Up {
        /// flags of `seriatim playground`, such as --data DIR
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// all processes and whether they run
    Status,
    /// SIGKILL a process
    Kill {
        /// its name, such as store-2
        node: String,
    },
    /// start a process again
    Start {
        /// its name
        node: String,
    },
    /// stop everything
    Stop,
}

/// `5s`, `500ms`, or whole seconds.
/// Also in hours and days.
fn life(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').map(|days| (days, 24 * 3_600));
    match days.or_else(|| text.strip_suffix('h').map(|hours| (hours, 3_600))) {
        Some((count, unit)) => {
            let seconds = count.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
            seconds.map(Duration::from_secs).ok_or_else(|| format!("`{text}` is no duration; say 90d or 12h"))
        }
        None => duration(text),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = if let Some(ms) = text.strip_suffix("ms") {
        ms.parse().map(Duration::from_millis)
    } else {
        text.strip_suffix('s').unwrap_or(text).parse().map(Duration::from_secs)
    };
    parsed.map_err(|_| format!("`{text}` is no duration; say 5s or 500ms"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        assert!(duration("soon").is_err());
        assert_eq!(life("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(life("12h"), Ok(Duration::from_secs(43_200)));
        assert_eq!(life("5s"), Ok(Duration::from_secs(5)));
        for wrong in ["d", "-1d", "1.5h", "99999999999999999999d", "400000000000000d", "soon"] {
            assert!(life(wrong).is_err(), "{wrong}");
        }
    }
}
