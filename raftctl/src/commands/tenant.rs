//! `raftctl tenant`: what tenants and their users may ask, as group 0 has it for all logic nodes.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::ids::{GroupId, TenantId};
use seriatim_proto::meta::{Limit, MetaCommand, MetaOutcome, MetaRefusal, TenantRecord};

use crate::failure::{Exit, Failure};
use crate::output::List;
use crate::store;
use crate::target::Target;

/// `tenant ls`
pub(super) async fn ls(target: &Target) -> Result<Exit, Failure> {
    let directory = store::directory(target.stores()?, &target.link).await?;
    let mut list = List::new("TenantList", &["tenant", "limits of its own"]);
    for record in &directory.tenants {
        let texts: Vec<String> = record.limits.iter().map(|(limit, rate)| format!("{}={rate}", limit.name())).collect();
        let limits: Map<String, Value> =
            record.limits.iter().map(|(limit, rate)| (limit.name().to_owned(), json!(rate))).collect();
        list.push(vec![record.id.to_string(), texts.join(" ")], json!({"tenant": record.id.0, "limits": limits}));
    }
    list.print(target.output)?;
    Ok(Exit::Ok)
}

/// `tenant show`
pub(super) async fn show(target: &Target, id: u32) -> Result<Exit, Failure> {
    let record = record(target, id).await?;
    print(target, "Limits", &record, &record)
}

/// `tenant set`
pub(super) async fn set(
    target: &Target,
    id: u32,
    limits: Vec<(Limit, Option<u32>)>,
    (dry_run, confirm): (bool, Option<u32>),
) -> Result<Exit, Failure> {
    let mut changes = BTreeMap::new();
    for (limit, rate) in limits {
        if changes.insert(limit, rate).is_some_and(|other| other != rate) {
            return Err(Failure::usage(format!("{} is given twice", limit.name())));
        }
    }
    let gives_up = changes.keys().any(|limit| limit.is_retention());
    if gives_up && !dry_run {
        check_confirmed(&record(target, id).await?, &changes, confirm)?;
    }
    change(target, id, changes, dry_run).await
}

/// What is given up is gone for ever.
fn check_confirmed(
    before: &TenantRecord,
    changes: &BTreeMap<Limit, Option<u32>>,
    confirm: Option<u32>,
) -> Result<(), Failure> {
    let kept = |value: Option<u32>| value.unwrap_or(u32::MAX);
    let keeps_less = |(limit, value): (&Limit, &Option<u32>)| {
        limit.is_retention() && kept(*value) < kept(before.limits.get(limit).copied())
    };
    let id = before.id.0;
    if !changes.iter().any(keeps_less) || confirm == Some(id) {
        return Ok(());
    }
    Err(Failure::usage(format!("tenant {id} loses for ever what it keeps no more: say --confirm {id}")))
}

/// `tenant reset`
pub(super) async fn reset(target: &Target, id: u32, dry_run: bool) -> Result<Exit, Failure> {
    change(target, id, Limit::ALL.iter().map(|limit| (*limit, None)).collect(), dry_run).await
}

async fn change(
    target: &Target,
    id: u32,
    changes: BTreeMap<Limit, Option<u32>>,
    dry_run: bool,
) -> Result<Exit, Failure> {
    let before = record(target, id).await?;
    if dry_run {
        let mut after = before.clone();
        for (limit, rate) in changes {
            match rate {
                Some(rate) => after.limits.insert(limit, rate),
                None => after.limits.remove(&limit),
            };
        }
        return print(target, "LimitsPlan", &before, &after);
    }
    let command = Command::Meta(MetaCommand::SetTenant { id: TenantId(id), changes });
    let outcomes = store::propose_at_leader(target.stores()?, GroupId::META, &[command], &target.link).await?;
    match outcomes.into_iter().next() {
        Some(Outcome::Meta(MetaOutcome::TenantSet(after))) => print(target, "Limits", &before, &after),
        Some(Outcome::Meta(MetaOutcome::Refused(refusal))) => {
            let failure = Failure::precondition(format!("failed to change the limits of tenant {id}: {refusal}"));
            Err(if refusal == MetaRefusal::Full {
                failure.hint("raftctl tenant ls, raftctl tenant reset")
            } else {
                failure
            })
        }
        other => Err(Failure::internal(format!("group 0 answered something else than was asked: {other:?}"))),
    }
}

async fn record(target: &Target, id: u32) -> Result<TenantRecord, Failure> {
    if TenantId(id) == TenantId(u32::MAX) {
        return Err(Failure::usage(format!("{id} is no tenant: tenants have numbers from 0 to {}", u32::MAX - 1)));
    }
    let directory = store::directory(target.stores()?, &target.link).await?;
    let found = directory.tenants.into_iter().find(|record| record.id == TenantId(id));
    Ok(found.unwrap_or_else(|| TenantRecord { id: TenantId(id), limits: BTreeMap::new() }))
}

/// All limits, and where they changed, what they were.
fn print(target: &Target, kind: &'static str, before: &TenantRecord, after: &TenantRecord) -> Result<Exit, Failure> {
    let mut list = List::new(kind, &["limit", "value", "before", "what counts"]);
    for limit in Limit::ALL {
        let unset = if limit.is_retention() { "everything is kept" } else { "the node's own" };
        let text = |rate: Option<u32>| rate.map_or_else(|| unset.to_owned(), |rate| rate.to_string());
        let [was, is] = [before, after].map(|record| record.limits.get(limit).copied());
        let was_text = if was == is { "-".to_owned() } else { text(was) };
        list.push(
            vec![limit.name().to_owned(), text(is), was_text, limit.help().to_owned()],
            json!({"tenant": after.id.0, "limit": limit.name(), "perSecond": is, "before": was}),
        );
    }
    list.print(target.output)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_keeps_less_than_before_must_be_confirmed() {
        let before = TenantRecord { id: TenantId(7), limits: BTreeMap::from([(Limit::RetentionAge, 1_000)]) };
        let needs = |limit, value, confirm| {
            let checked = check_confirmed(&before, &BTreeMap::from([(limit, value)]), confirm);
            checked.map_err(|failure| assert_eq!(failure.exit, Exit::Usage)).is_err()
        };
        assert!(needs(Limit::RetentionAge, Some(999), None) && needs(Limit::RetentionAge, Some(999), Some(8)));
        assert!(needs(Limit::RetentionInbox, Some(100), None), "everything was kept");
        assert!(!needs(Limit::RetentionAge, Some(999), Some(7)));
        for more in [Some(1_000), Some(1_001), None] {
            assert!(!needs(Limit::RetentionAge, more, None), "{more:?}");
        }
        assert!(!needs(Limit::UserWrites, Some(0), None) && !needs(Limit::RetentionInbox, None, None));
    }
}
