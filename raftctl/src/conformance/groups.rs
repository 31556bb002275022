//! Groups: who is a member, who gets what, and what a stranger learns.

use bytes::Bytes;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::amend::Act;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::entry::Kind;
use seriatim_proto::wire::v1::mark::What;
use seriatim_proto::wire::v1::send_status::State as Verdict;

use super::peer::{Peer, amendment, message, new_id};
use super::{Outcome, Scene, ensure, same};

fn of(group: &Bytes) -> v1::Conversation {
    v1::Conversation { id: Some(v1::conversation::Id::Group(group.clone())) }
}

fn create(group: &Bytes, members: &[&str]) -> v1::CreateGroup {
    let members = members.iter().map(|&member| member.to_owned()).collect();
    v1::CreateGroup { message_id: new_id(), group: group.clone(), members }
}

fn change(group: &Bytes, add: &[&str], remove: &[&str]) -> Asked {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Asked::ChangeMembers(v1::ChangeMembers {
        message_id: new_id(),
        conversation: Some(of(group)),
        add: names(add),
        remove: names(remove),
        known: 0,
    })
}

/// A group of `alice`'s with `members`.
pub(super) async fn grouped(alice: &mut Peer, members: &[&str]) -> Outcome<v1::Conversation> {
    let group = new_id();
    alice.committed(Asked::CreateGroup(create(&group, members))).await?;
    Ok(of(&group))
}

/// Lets somebody in.
pub(super) async fn add(alice: &mut Peer, group: &v1::Conversation, member: &str) -> Outcome {
    let Some(v1::conversation::Id::Group(id)) = &group.id else { return super::fail("no group") };
    alice.committed(change(id, &[member], &[])).await.map(|_| ())
}

pub(super) async fn a_group_is_created(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let group = new_id();
    let created = create(&group, &[&bob.user.name]);
    let seq = alice.committed(Asked::CreateGroup(created.clone())).await?.seq;
    let again = alice.committed(Asked::CreateGroup(created.clone())).await?;
    same("the same again", again, v1::Committed { seq, duplicate: true })?;
    let (creator, member) = (alice.user.name.clone(), bob.user.name.clone());
    for peer in [&mut alice, &mut bob] {
        let entries = peer.first_entries(1).await?;
        let entry = &entries[0];
        same("kind and sender", (entry.kind(), &entry.sender), (Kind::Create, &creator))?;
        same("who joined: all but the sender", &entry.added, &vec![member.clone()])?;
        same(
            "id, group and place",
            (&entry.message_id, &entry.conversation, entry.conversation_seq),
            (&created.message_id, &Some(of(&group)), seq),
        )?;
    }
    Ok(())
}

fn kinds(entries: &[v1::Entry]) -> Vec<Kind> {
    entries.iter().map(v1::Entry::kind).collect()
}

pub(super) async fn a_message_comes_to_all_members(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let mut carol = scene.enter("carol").await?;
    let mut dave = scene.enter("dave").await?;
    let id = new_id();
    let group = of(&id);
    alice.committed(Asked::CreateGroup(create(&id, &[&bob.user.name, &dave.user.name]))).await?;
    alice.committed(change(&id, &[], &[&dave.user.name])).await?;
    let send = message(&group, "for two");
    alice.committed(Asked::Send(send.clone())).await?;
    for peer in [&mut alice, &mut bob] {
        let entry = peer.first_entries(3).await?.remove(2);
        same("the message", (&entry.body, &entry.message_id), (&send.body, &send.message_id))?;
        same("its conversation", entry.conversation, Some(group.clone()))?;
    }
    // All that there is for them was there before this.
    let note = message(&carol.user.conversation(), "a note");
    carol.committed(Asked::Send(note.clone())).await?;
    let entries = carol.first_entries(1).await?;
    same("the first entry of another's inbox", (&entries[0].message_id, entries[0].prev_seq), (&note.message_id, 0))?;
    let page = carol.sync(1, 0).await?;
    same("entries of another's inbox", page.entries.len(), 1)?;
    // Nor into that of one who has gone, nor what was said before into that of one who comes.
    let note = message(&dave.user.conversation(), "a note");
    dave.committed(Asked::Send(note.clone())).await?;
    let of_dave = dave.first_entries(3).await?;
    same("what one who has gone gets next", &of_dave[2].message_id, &note.message_id)?;
    let page = dave.sync(1, 0).await?;
    same("entries of one who has gone", kinds(&page.entries), vec![Kind::Create, Kind::Members, Kind::Message])?;
    alice.committed(change(&id, &[&carol.user.name], &[])).await?;
    let of_carol = carol.first_entries(2).await?;
    same("entries of one who comes", kinds(&of_carol), vec![Kind::Message, Kind::Members])
}

pub(super) async fn members_come_and_go(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let mut carol = scene.enter("carol").await?;
    let group = new_id();
    alice.committed(Asked::CreateGroup(create(&group, &[&bob.user.name]))).await?;
    carol.refused(Asked::Send(message(&of(&group), "not yet")), ErrorCode::NotFound).await?;
    alice.committed(change(&group, &[&carol.user.name], &[&bob.user.name])).await?;
    carol.send(&of(&group), "from a new member").await?;
    bob.refused(Asked::Send(message(&of(&group), "from a former one")), ErrorCode::NotFound).await?;
    let (came, went) = (carol.user.name.clone(), bob.user.name.clone());
    for (peer, place) in [(&mut alice, 1), (&mut bob, 1), (&mut carol, 0)] {
        let entry = peer.first_entries(place + 1).await?.remove(place);
        same("the kind", entry.kind(), Kind::Members)?;
        same("who came and who went", (entry.added, entry.removed), (vec![came.clone()], vec![went.clone()]))?;
    }
    let last = alice.first_entries(3).await?.remove(2);
    same("what the new member said", (last.sender, &last.body[..]), (came, &b"from a new member"[..]))
}

pub(super) async fn a_stranger_learns_nothing(scene: &Scene<'_>) -> Outcome {
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let (there, nowhere) = (new_id(), new_id());
    let created = create(&there, &[]);
    alice.committed(Asked::CreateGroup(created.clone())).await?;
    let mut refusals = Vec::new();
    for group in [&there, &nowhere] {
        let asked = [
            Asked::Send(message(&of(group), "hi")),
            change(group, &[&bob.user.name.clone()], &[]),
            change(group, &[], &[&bob.user.name.clone()]),
            change(group, &[], &[&alice.user.name.clone()]),
            Asked::Amend(amendment(&of(group), 1, Act::React(v1::React { emoji: "+".to_owned(), unset: false }))),
            Asked::Amend(amendment(&of(group), 1, Act::Recall(v1::Recall {}))),
            Asked::Amend(amendment(&of(group), 1, Act::Pin(v1::Pin { unset: true }))),
            Asked::Mark(v1::Mark { conversation: Some(of(group)), what: Some(What::Muted(true)) }),
            Asked::Mark(v1::Mark { conversation: Some(of(group)), what: Some(What::ReadUpto(1)) }),
            Asked::History(v1::History { conversation: Some(of(group)), from: 0, limit: 0 }),
            Asked::CancelSend(v1::CancelSend { message_id: new_id(), conversation: Some(of(group)), known: 0 }),
        ];
        let mut said = Vec::new();
        for body in asked {
            said.push(bob.refused(body, ErrorCode::NotFound).await?);
        }
        refusals.push(said);
        // Also of the id of a message that is there.
        let query = v1::QuerySend { message_id: created.message_id.clone(), conversation: Some(of(group)), known: 0 };
        same("the verdict on another's id", bob.status_of(Asked::QuerySend(query)).await?, (Verdict::NotYet, 0))?;
    }
    ensure(refusals[0] == refusals[1], "the same words, whether the group is there or not", &refusals)
}
