//! Asked: frames of the device in order: read as far as there is room, held against their streams, and handed on.

use std::time::Instant;

use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::DeviceId;
use seriatim_proto::limits;
use seriatim_proto::logic::Call;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, FrameError, v1};

use super::{Purpose, Request, RequestId, Session, SessionEvent, State};
use crate::frames;
use crate::stream::{Role, StreamId};

impl Session {
    pub(super) fn read_all(&mut self, now: Instant) {
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            self.read_frames(now, id);
        }
    }

    pub(super) fn read_frames(&mut self, now: Instant, id: StreamId) {
        loop {
            let open = match self.state {
                State::AwaitHello { .. } => id == StreamId::CONTROL,
                State::Open { .. } => self.has_room(),
                State::Authenticating { .. } | State::Closed => false,
            };
            let Some(stream) = self.streams.get_mut(&id).filter(|_| open) else { return };
            match stream.decoder.next_frame::<v1::ClientFrame>() {
                Ok(Some(frame)) => self.handle_frame(now, id, frame),
                Ok(None) => return self.maybe_ended(id),
                Err(error) => return self.close(frame_refusal(&error)),
            }
        }
    }

    /// All frames of the stream are read: is that its end?
    pub(super) fn maybe_ended(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id).filter(|stream| stream.ended) else { return };
        if let Err(error) = stream.decoder.finish() {
            self.close(frame_refusal(&error));
        } else if id == StreamId::CONTROL {
            self.close_control_gone();
        } else {
            self.maybe_finish(id);
        }
    }

    pub(super) fn handle_frame(&mut self, now: Instant, id: StreamId, frame: v1::ClientFrame) {
        let Some(body) = frame.body else {
            return self.handle_unknown(id, frame.request_id, frame.optional);
        };
        if matches!(self.state, State::AwaitHello { .. }) {
            return match body {
                Asked::Hello(hello) => self.handle_hello(now, frame.request_id, hello),
                _ => self.close_wrong_stream("the first frame must be Hello"),
            };
        }
        let role = frames::role_of(&body);
        if !self.take_role(id, role, frame.request_id) {
            return;
        }
        match body {
            Asked::Hello(_) => self.close_wrong_stream("a second Hello"),
            Asked::Ping(ping) => {
                self.say(id, frame.request_id, Said::Pong(v1::Pong { nonce: ping.nonce }));
            }
            Asked::Subscribe(subscribe) => self.handle_subscribe(now, frame.request_id, &subscribe),
            Asked::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe.subscription_id),
            Asked::Credit(credit) => self.handle_credit(now, &credit),
            Asked::Renew(renew) => self.handle_renew(now, frame.request_id, renew),
            Asked::Ack(_)
            | Asked::Send(_)
            | Asked::QuerySend(_)
            | Asked::CancelSend(_)
            | Asked::CreateGroup(_)
            | Asked::ChangeMembers(_)
            | Asked::Amend(_)
            | Asked::Mark(_)
            | Asked::List(_)
            | Asked::Sync(_)
            | Asked::History(_)
            | Asked::Status(_)
            | Asked::Next(_)
            | Asked::Current(_) => self.handle_call(id, frame.request_id, body),
        }
    }

    pub(super) fn handle_unknown(&mut self, id: StreamId, request_id: u64, optional: bool) {
        if optional {
            return;
        }
        let refusal = Refusal::new(ErrorCode::Unsupported, "an unknown frame");
        if matches!(self.state, State::AwaitHello { .. }) {
            return self.close(refusal);
        }
        self.say(id, request_id, Said::Error(wire::error_to_wire(&refusal)));
    }

    /// Gives the stream its role by its first frame, and checks it at every other.
    pub(super) fn take_role(&mut self, id: StreamId, role: Role, request_id: u64) -> bool {
        let lanes_full = self.lanes >= self.limits.lanes_max;
        let stream = self.stream_mut(id);
        let named = match (stream.role, role) {
            (Role::Unnamed, Role::Lane) if lanes_full => {
                let refusal = Refusal::new(ErrorCode::Busy, "too many lanes");
                self.say(id, request_id, Said::Error(wire::error_to_wire(&refusal)));
                return false;
            }
            (Role::Unnamed, Role::Lane | Role::Call) => true,
            (known, asked) if known == asked => false,
            _ => {
                self.close_wrong_stream("a frame that does not belong on this stream");
                return false;
            }
        };
        if role == Role::Call && std::mem::replace(&mut stream.asked, true) {
            self.close_wrong_stream("a second question on a call stream");
            return false;
        }
        if named {
            stream.role = role;
            self.lanes += u32::from(role == Role::Lane);
        }
        true
    }

    pub(super) fn handle_hello(&mut self, now: Instant, request_id: u64, hello: v1::Hello) {
        let Some(minor) = highest_common([hello.min_minor, hello.max_minor], [wire::MINOR_MIN, wire::MINOR_MAX]) else {
            let text = format!("minor versions {} to {} are spoken here", wire::MINOR_MIN, wire::MINOR_MAX);
            return self.close(Refusal::new(ErrorCode::Unsupported, text));
        };
        let is_missing = hello.token.is_empty() && !self.certified;
        if is_missing || hello.token.len() > limits::TOKEN_BYTES_MAX as usize {
            return self.close(Refusal::new(ErrorCode::AuthFailed, "the token is missing or too long"));
        }
        match DeviceId::new(&hello.device) {
            Ok(device) => {
                let deadline = now + self.limits.hello_timeout;
                self.state = State::Authenticating { minor, request_id, deadline };
                self.events.push_back(SessionEvent::Authenticate { token: hello.token, device });
            }
            Err(error) => self.close(Refusal::new(ErrorCode::Malformed, format!("the device: {error}"))),
        }
    }

    pub(super) fn handle_call(&mut self, id: StreamId, request_id: u64, body: Asked) {
        let State::Open { user, .. } = &self.state else { return };
        match frames::call_of(body, user) {
            Ok(call) => {
                let conversation = match &call {
                    Call::History { conversation, .. } => Some(conversation.clone()),
                    _ => None,
                };
                self.stream_mut(id).requests += 1;
                let weight = frames::weight_of(&call);
                self.ask(weight, Purpose::Device { stream: id, request_id, conversation }, call);
            }
            Err(refusal) => {
                self.say(id, request_id, Said::Error(wire::error_to_wire(&refusal)));
                self.maybe_finish(id);
            }
        }
    }

    pub(super) fn ask(&mut self, weight: u32, purpose: Purpose, call: Call) {
        let request = self.request_next();
        self.weight += weight;
        self.requests.insert(request, Request { weight, purpose });
        self.events.push_back(SessionEvent::Call { request, call });
    }

    pub(super) fn request_next(&mut self) -> RequestId {
        self.request_last += 1;
        RequestId(self.request_last)
    }
}

/// The highest number that lies in both ranges, ends included.
fn highest_common([min, max]: [u32; 2], [other_min, other_max]: [u32; 2]) -> Option<u32> {
    let highest = max.min(other_max);
    (min.max(other_min) <= highest).then_some(highest)
}

fn frame_refusal(error: &FrameError) -> Refusal {
    let code = match error {
        FrameError::TooLarge { .. } => ErrorCode::FrameTooLarge,
        FrameError::Length | FrameError::Malformed(_) | FrameError::Truncated => ErrorCode::Malformed,
    };
    Refusal::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_minor_is_spoken() {
        assert_eq!(highest_common([0, 5], [2, 3]), Some(3));
        assert_eq!(highest_common([2, 2], [0, 3]), Some(2));
        assert_eq!(highest_common([4, 5], [0, 3]), None);
        assert_eq!(highest_common([3, 1], [0, 9]), None);
    }
}
