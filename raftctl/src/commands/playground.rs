//! `raftctl playground`: orders to the processes of a playground.

use serde_json::json;
use seriatim_proto::playground::{ControlRequest, ControlResponse, PlaygroundRole};

use crate::cli::{Globals, Playground};
use crate::control;
use crate::failure::{Exit, Failure};
use crate::output::{List, dash};
use crate::target::playground_folder;

/// Any verb.
pub(super) async fn run(globals: &Globals, verb: Playground) -> Result<Exit, Failure> {
    let request = match verb {
        Playground::Up { arguments } => return up(&arguments),
        Playground::Status => ControlRequest::Status,
        Playground::Kill { node } => ControlRequest::Kill { node },
        Playground::Start { node } => ControlRequest::Start { node },
        Playground::Stop => ControlRequest::Stop,
    };
    let folder = playground_folder(globals)?;
    let answer = control::ask(&folder, &request).await?;
    match request {
        ControlRequest::Status => nodes(&answer).print(globals.output)?,
        ControlRequest::Kill { node } => eprintln!("killed {node}"),
        ControlRequest::Start { node } => eprintln!("started {node}"),
        ControlRequest::Stop => eprintln!("stopping"),
    }
    Ok(Exit::Ok)
}

fn nodes(answer: &ControlResponse) -> List {
    let mut list = List::new("ProcessList", &["node", "state", "pid", "address", "leads"]);
    for node in &answer.nodes {
        let state = if node.pid.is_some() { "running" } else { "down" };
        let leads = node.leads.as_ref().map(|leads| format!("{leads:?}"));
        list.push(
            vec![node.name.clone(), state.to_owned(), dash(node.pid), node.address.clone(), dash(leads)],
            json!({
                "node": node.name,
                "role": match node.role {
                    PlaygroundRole::Store => "store",
                    PlaygroundRole::Logic => "logic",
                    PlaygroundRole::Gateway => "gateway",
                },
                "state": state,
                "pid": node.pid,
                "address": node.address,
                "metrics": node.metrics,
                "leads": node.leads,
            }),
        );
    }
    list
}

/// Becomes `seriatim playground`, the program beside this one.
fn up(arguments: &[String]) -> Result<Exit, Failure> {
    let program = std::env::current_exe()
        .map(|own| own.with_file_name("seriatim"))
        .map_err(|error| Failure::internal(format!("failed to find our own program: {error}")))?;
    let error = std::os::unix::process::CommandExt::exec(
        std::process::Command::new(&program).arg("playground").args(arguments),
    );
    Err(Failure::not_found(format!("failed to start {}: {error}", program.display())))
}
