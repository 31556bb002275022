//! Checkers on files: what a run leaves is judged as it stands, and the report is made from it.

use std::path::Path;

use seriatim_jepsen::check::{CheckOptions, Outcome, Rule, check_history, check_run, selftest};
use seriatim_jepsen::history::{Act, Effect, Ended, Fault, Function, HISTORY_FILE, HistoryWriter, NEMESIS_FILE, Op};
use seriatim_jepsen::report::{REPORT_FILE, write_report};

fn write<T: serde::Serialize>(path: &Path, records: &[T]) {
    let writer = HistoryWriter::create(path).expect("the folder is new");
    for record in records {
        writer.write(record).expect("the disk has room");
    }
    writer.sync().expect("the disk has room");
}

fn fault(number: u64, kind: &str, act: Act, began: u64, effect: Effect) -> Fault {
    let targets = vec!["store-1".to_owned()];
    Fault { number, kind: kind.to_owned(), act, began, ended: began + 5, targets, effect, detail: "pid <7>".to_owned() }
}

#[test]
fn a_folder_is_judged_like_the_story_that_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    selftest::write_sample(folder.path(), 1, None).unwrap();
    let verdict = check_run(folder.path(), &CheckOptions::default()).unwrap();
    assert_eq!(verdict.outcome, Outcome::Ok, "{:?} {:?}", verdict.violations, verdict.vacuous);
    assert!(verdict.acked > 100 && verdict.unknown > 0, "{:?}", verdict.ops);
    assert!(verdict.seen.pages > 0 && verdict.seen.pushes > 0, "{:?}", verdict.seen);
    assert_eq!(verdict.keys["seq"], 2);
}

#[test]
fn a_wrong_in_the_files_is_found_with_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    selftest::write_sample(folder.path(), 1, Some("a number is given twice")).unwrap();
    let verdict = check_run(folder.path(), &CheckOptions::default()).unwrap();
    assert_eq!(verdict.outcome, Outcome::Violation);
    let violation = verdict.violations.iter().find(|violation| violation.rule == Rule::S1).unwrap();
    assert_eq!(violation.invariant, "I1");
    let history = std::fs::read_to_string(folder.path().join(HISTORY_FILE)).unwrap();
    for evidence in &violation.evidence {
        let line = history.lines().nth(usize::try_from(evidence.line).unwrap() - 1).unwrap();
        assert_eq!(line, evidence.record, "the evidence is the line that it names");
    }
}

#[test]
fn a_history_of_somebody_else_is_judged_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("theirs.jsonl");
    let next = |seq, call| Op { seq: Some(seq), ..Op::new(1, "orders", Function::Next, (call, call + 5), Ended::Ok) };
    write(&path, &[next(1, 0), next(3, 10), next(2, 20)]);
    let verdict = check_history(&path, &CheckOptions::default()).unwrap();
    assert_eq!(verdict.violations_by_rule.into_iter().collect::<Vec<_>>(), [(Rule::S3, 1)]);
}

/// Beyond the drift margin numbers may be out of order, and nothing else, and only then.
#[test]
fn a_clock_beyond_the_margin_excuses_the_order_of_numbers_while_it_is_and_no_number_given_twice() {
    const SECOND: u64 = 1_000_000_000;
    let next = |seq, call| Op { seq: Some(seq), ..Op::new(1, "orders", Function::Next, (call, call + 5), Ended::Ok) };
    let judged = |kind: &str, ops: &[Op]| {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join(HISTORY_FILE), ops);
        let faults = [
            fault(1, kind, Act::Inject, 10 * SECOND, Effect::Installed),
            fault(1, kind, Act::Heal, 13 * SECOND, Effect::Installed),
        ];
        write(&folder.path().join(NEMESIS_FILE), &faults);
        let verdict = check_run(folder.path(), &CheckOptions::default()).unwrap();
        (verdict.excused, verdict.violations_by_rule.into_iter().collect::<Vec<_>>())
    };
    let out_of_order = |at: u64| [next(20, at), next(10, at + 100), next(30, 40 * SECOND)];
    assert_eq!(judged("boot-beyond", &out_of_order(11 * SECOND)), (1, vec![]));
    assert_eq!(judged("boot-beyond", &out_of_order(14 * SECOND)), (1, vec![]), "the rest of a lease");
    assert_eq!(judged("boot-beyond", &out_of_order(16 * SECOND)), (0, vec![(Rule::S3, 1)]), "true again");
    assert_eq!(judged("boot-beyond", &out_of_order(9 * SECOND)), (0, vec![(Rule::S3, 1)]), "still true");
    assert_eq!(judged("boot-rate", &out_of_order(11 * SECOND)), (0, vec![(Rule::S3, 1)]), "within the margin");
    let twice = [next(20, 11 * SECOND), next(20, 11 * SECOND + 100), next(30, 40 * SECOND)];
    assert_eq!(judged("boot-beyond", &twice), (0, vec![(Rule::S1, 1)]));
}

#[test]
fn a_run_that_tried_nothing_is_invalid() {
    let folder = tempfile::tempdir().unwrap();
    write::<Op>(&folder.path().join(HISTORY_FILE), &[]);
    let kill = fault(1, "kill-leader", Act::Inject, 10, Effect::Skipped);
    write(&folder.path().join(NEMESIS_FILE), &[kill]);
    let verdict = check_run(folder.path(), &CheckOptions::default()).unwrap();
    assert_eq!(verdict.outcome, Outcome::Invalid);
    assert_eq!(verdict.vacuous.len(), 2, "no acks, and a fault without effect: {:?}", verdict.vacuous);
}

#[test]
fn a_line_that_is_no_record_is_named_and_nothing_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(HISTORY_FILE), "{\"proc\":1}\n").unwrap();
    let error = check_run(folder.path(), &CheckOptions::default()).unwrap_err();
    assert!(format!("{error:#}").contains("history.jsonl, line 1"), "{error:#}");
}

#[test]
fn the_report_stands_alone_and_names_what_was_broken() {
    let folder = tempfile::tempdir().unwrap();
    selftest::write_sample(folder.path(), 3, Some("an acked message is lost")).unwrap();
    let faults = [
        fault(1, "kill-<leader>", Act::Inject, 2_000, Effect::Installed),
        fault(1, "kill-<leader>", Act::Heal, 9_000, Effect::Installed),
    ];
    write(&folder.path().join(NEMESIS_FILE), &faults);
    let verdict = check_run(folder.path(), &CheckOptions::default()).unwrap();
    write_report(folder.path(), &verdict).unwrap();
    let page = std::fs::read_to_string(folder.path().join(REPORT_FILE)).unwrap();
    assert!(page.contains("A promise was broken") && page.contains("S4 · I6"), "the verdict is told");
    assert!(page.contains("kill-&lt;leader&gt;") && !page.contains("kill-<leader>"), "names mean themselves");
    assert!(!page.contains("http") && !page.contains("<script"), "nothing is fetched and nothing runs");
}

/// Not in CI: it is about memory and time, and writes 200 MB. `cargo nextest run --run-ignored all a_million`
#[test]
#[ignore = "long"]
fn a_million_operations_are_judged() {
    let folder = tempfile::tempdir().unwrap();
    let report = selftest::judge_long(&folder.path().join("long.jsonl"), 1_000_000, 1).unwrap();
    println!("{:?}, peak {:?} bytes, {:?}", report.took, report.peak_bytes, report.verdict.ops);
    assert_eq!(report.verdict.outcome, Outcome::Ok, "{:?}", report.verdict.violations);
    assert!(report.peak_bytes.is_none_or(|bytes| bytes < 4 << 30), "4 GiB are enough: {:?}", report.peak_bytes);
}
