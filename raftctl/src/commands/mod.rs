//! Commands: one file per noun; here only the match.

mod alarm;
mod amend;
mod auth;
mod cert;
mod check;
mod cluster;
mod conformance;
mod doubt;
mod gateway;
mod moves;
mod msg;
mod node;
mod playground;
mod raft;
mod send;
mod seq;
mod served;
mod session;
mod shown;
mod tail;
mod tenant;
mod transfer;
mod user;
mod verify;

use clap::CommandFactory;
use seriatim_proto::ids::{GroupId, ReplicaId, StoreId};

use crate::cli::{
    self, Alarm, Auth, Cert, Check, Cli, Cluster, Conversation, Counter, Gateway, Group, Msg, Node, Raft, Session,
    Tenant, User,
};
use crate::failure::{EXIT_CODES, Exit, Failure};
use crate::output::print_text;
use crate::target::Target;

/// Does what was asked. Whether a gateway's silence is for want of a quorum, the stores are asked afterwards.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Failure> {
    let globals = cli.globals.clone();
    match dispatch(cli).await {
        Err(failure) if failure.doubtful => Err(match Target::new(&globals) {
            Ok(target) => doubt::settle(&target, failure).await,
            Err(_) => failure,
        }),
        other => other,
    }
}

async fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let globals = &cli.globals;
    let target = || Target::new(globals);
    match cli.group {
        Group::Cluster(Cluster::Init { groups, replicas }) => cluster::init(&target()?, groups, replicas).await,
        Group::Cluster(Cluster::Status) => cluster::status(&target()?).await,
        Group::Raft(Raft::Groups) => raft::groups(&target()?).await,
        Group::Raft(Raft::Moves) => moves::moves(&target()?).await,
        Group::Raft(Raft::Move { group, from, to, dry_run }) => {
            moves::begin(&target()?, GroupId(group), (from.map(StoreId), to.map(StoreId)), dry_run).await
        }
        Group::Raft(Raft::CancelMove { group }) => moves::cancel(&target()?, GroupId(group)).await,
        Group::Raft(Raft::Transfer { group, to, dry_run }) => {
            transfer::transfer(&target()?, GroupId(group), StoreId(to), dry_run).await
        }
        Group::Alarm(Alarm::Ls) => alarm::ls(&target()?).await,
        Group::Alarm(Alarm::Withdraw { group, replica, dry_run, confirm }) => {
            alarm::withdraw(&target()?, GroupId(group), ReplicaId(replica), (dry_run, confirm)).await
        }
        Group::Check(Check::Replicas { groups, wait }) => check::replicas(&target()?, groups, wait).await,
        Group::Node(Node::Ls) => node::ls(&target()?).await,
        Group::Node(Node::Join { address }) => node::join(&target()?, &address).await,
        Group::Node(Node::Drain { store, wait }) => node::drain(&target()?, StoreId(store), wait).await,
        Group::Node(Node::Undrain { store }) => node::undrain(&target()?, StoreId(store)).await,
        Group::Node(Node::Remove { store, confirm }) => node::remove(&target()?, StoreId(store), confirm).await,
        Group::Gateway(Gateway::Ls) => gateway::ls(&target()?).await,
        Group::Gateway(Gateway::Show { gateway }) => gateway::show(&target()?, &gateway).await,
        Group::Gateway(Gateway::Drain { gateway, deadline, undo, dry_run, yes }) => {
            gateway::drain(&target()?, &gateway, &gateway::Drain { deadline, undo, dry_run, yes }).await
        }
        Group::Gateway(Gateway::ReloadCert { gateway }) => gateway::reload_cert(&target()?, &gateway).await,
        Group::Session(Session::Ls(asked)) => session::ls(&target()?, &asked, globals.tenant).await,
        Group::Session(Session::Show { id }) => session::show(&target()?, &id).await,
        Group::Session(Session::Kick(asked)) => session::kick(&target()?, &asked).await,
        Group::User(User::Show { user }) => user::show(&target()?, &user).await,
        Group::User(User::Tail { user, follow, lines, from }) => {
            tail::tail(&target()?, &user, tail::Wanted { follow, lines, from }).await
        }
        Group::User(User::Verify { user }) => verify::verify(&target()?, &user).await,
        Group::Seq(Counter::Next { counter, count, user }) => seq::next(&target()?, &counter, count, &user).await,
        Group::Seq(Counter::Current { counter, user }) => seq::current(&target()?, &counter, &user).await,
        Group::Seq(Counter::Show { counter }) => seq::show(&target()?, &counter).await,
        Group::Tenant(Tenant::Ls) => tenant::ls(&target()?).await,
        Group::Tenant(Tenant::Show { id }) => tenant::show(&target()?, id).await,
        Group::Tenant(Tenant::Set { id, limits, dry_run, confirm }) => {
            tenant::set(&target()?, id, limits, (dry_run, confirm)).await
        }
        Group::Tenant(Tenant::Reset { id, dry_run }) => tenant::reset(&target()?, id, dry_run).await,
        Group::Auth(Auth::Inspect { keys }) => auth::inspect(&target()?, keys.as_deref()),
        Group::Auth(Auth::Keys { keys }) => auth::keys(&target()?, keys.as_deref()),
        Group::Auth(Auth::Mint { user, scopes, life }) => auth::mint(&target()?, &user, &scopes, life),
        Group::Cert(Cert::InitCa { folder, name, life }) => cert::init_ca(&target()?, &folder, &name, life),
        Group::Cert(Cert::Issue(issue)) => cert::issue(&target()?, &issue),
        Group::Cert(Cert::Show { files }) => cert::show(&target()?, &files),
        Group::Cert(Cert::Status { within }) => served::status(&target()?, within).await,
        Group::Cert(Cert::Nodes { within }) => shown::nodes(&target()?, within).await,
        Group::Msg(Msg::Status(of)) => msg::status(&target()?, &of).await,
        Group::Msg(Msg::Cancel(of)) => msg::cancel(&target()?, &of).await,
        Group::Msg(Msg::Show(of)) => amend::show(&target()?, &of).await,
        Group::Msg(Msg::Edit { of, text }) => amend::edit(&target()?, &of, &text).await,
        Group::Msg(Msg::Recall(of)) => amend::recall(&target()?, &of).await,
        Group::Msg(Msg::React { of, emoji, unset }) => amend::react(&target()?, &of, &emoji, unset).await,
        Group::Msg(Msg::Pin { of, unset }) => amend::pin(&target()?, &of, unset).await,
        Group::Conversation(Conversation::Show(route)) => amend::conversation(&target()?, &route).await,
        Group::Conversation(Conversation::Ls { user }) => amend::conversations(&target()?, user.as_deref()).await,
        Group::Conformance(asked) => {
            // As every other verb: the flag is before the environment and the playground.
            let globals =
                cli::Globals { gateway: asked.target.clone().or_else(|| globals.gateway.clone()), ..globals.clone() };
            conformance::conformance(&Target::new(&globals)?, &asked).await
        }
        Group::Send(send) => send::send(&target()?, &send).await,
        Group::Playground(verb) => playground::run(globals, verb).await,
        Group::Help { topic } => help(&topic),
    }
}

fn help(topic: &[String]) -> Result<Exit, Failure> {
    if topic.first().is_some_and(|word| word == "exit-codes") {
        return print_text(EXIT_CODES).map(|()| Exit::Ok);
    }
    let mut command = Cli::command();
    command.build();
    let mut found = &mut command;
    for word in topic {
        found = found.find_subcommand_mut(word).ok_or_else(|| {
            Failure::usage(format!("no help on `{word}`")).hint("raftctl help, raftctl help exit-codes")
        })?;
    }
    print_text(&found.render_long_help().to_string()).map(|()| Exit::Ok)
}
