//! `raftctl seq`: numbers of the sequence service, as a client takes them, and a counter's row, as its group has it.

use serde_json::json;
use seriatim_proto::hash;
use seriatim_proto::ids::{CounterName, Namespace};
use seriatim_proto::logic::Scopes;
use seriatim_proto::store::{Read, ReadOutcome};

use super::user::{holder_text, user_id};
use crate::device::{Device, request_failure};
use crate::failure::{Exit, Failure};
use crate::output::{List, maybe_number, number};
use crate::store;
use crate::target::Target;

fn counter_name(name: &str) -> Result<CounterName, Failure> {
    CounterName::new(name).map_err(|error| Failure::usage(format!("`{name}` is no counter: {error}")))
}

/// `seq next`
pub(super) async fn next(target: &Target, name: &str, count: u32, user: &str) -> Result<Exit, Failure> {
    let counter = counter_name(name)?;
    let device = Device::connect_for(target, Some(&user_id(user)?), Scopes::SEQUENCE).await?;
    let asked = device.client.next_numbers(&counter, count).await;
    let numbers = asked.map_err(|error| request_failure(&format!("failed to take numbers of {name}"), &error))?;
    let mut list = List::new("Numbers", &["counter", "first", "last", "count"]);
    let last = numbers.end().get() - 1;
    list.push(
        vec![name.to_owned(), numbers.first.to_string(), last.to_string(), numbers.count.to_string()],
        json!({
            "counter": name,
            "first": number(numbers.first.get()),
            "last": number(last),
            "count": numbers.count,
        }),
    );
    list.print(target.output)?;
    Ok(Exit::Ok)
}

/// `seq current`
pub(super) async fn current(target: &Target, name: &str, user: &str) -> Result<Exit, Failure> {
    let counter = counter_name(name)?;
    let device = Device::connect_for(target, Some(&user_id(user)?), Scopes::SEQUENCE).await?;
    let asked = device.client.current_number(&counter).await;
    let current = asked.map_err(|error| request_failure(&format!("failed to ask where {name} stands"), &error))?;
    let mut list = List::new("Current", &["counter", "all given are below"]);
    list.push(vec![name.to_owned(), current.to_string()], json!({"counter": name, "number": number(current.get())}));
    list.print(target.output)?;
    Ok(Exit::Ok)
}

/// `seq show`
pub(super) async fn show(target: &Target, name: &str) -> Result<Exit, Failure> {
    let namespace = Namespace::counter(target.tenant, counter_name(name)?);
    let stores = target.stores()?;
    let directory = store::directory(stores, &target.link).await?;
    let slot = hash::slot(&namespace);
    let group = store::group_of(&directory, slot)?;
    let reads = [Read::Namespace(namespace), Read::Holder(slot)];
    let outcomes = store::read_at_leader(stores, group, &reads, &target.link).await?;
    let [ReadOutcome::Namespace(state), ReadOutcome::Holder(holder)] = &outcomes[..] else {
        return Err(Failure::internal(format!("group {group} answered something else than was asked")));
    };
    let Some(state) = state else {
        return Err(Failure::not_found(format!("nobody ever counted on {name} (tenant {})", target.tenant))
            .hint(format!("raftctl seq next {name}")));
    };
    let mut list = List::new("Counter", &["what", "value"]);
    let rows = [
        ("counter", name.to_owned()),
        ("tenant", target.tenant.to_string()),
        ("slot", slot.to_string()),
        ("group", group.to_string()),
        ("holder", holder_text(&directory, holder)),
        ("ceiling", state.ceiling.to_string()),
    ];
    list.rows.extend(rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]));
    list.items.push(json!({
        "counter": name,
        "tenant": target.tenant.0,
        "slot": slot.0,
        "group": group.0,
        "holder": maybe_number(holder.holder.map(|holder| holder.0)),
        "epoch": number(holder.epoch.0),
        "ceiling": number(state.ceiling.get()),
    }));
    list.print(target.output)?;
    Ok(Exit::Ok)
}
