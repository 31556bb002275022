//! Said: what waits to be written on each stream, and how much may.

use seriatim_proto::wire;
use seriatim_proto::wire::v1::server_frame::Body as Said;

use super::Session;
use crate::frames::server_frame;
use crate::stream::{Role, Stream, StreamId};

impl Session {
    pub(super) fn stream_mut(&mut self, id: StreamId) -> &mut Stream {
        self.streams.entry(id).or_insert_with(|| Stream::new(Role::Unnamed))
    }

    pub(super) fn say(&mut self, id: StreamId, request_id: u64, body: Said) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let before = stream.out.len();
        wire::encode_frame(&server_frame(request_id, body), &mut stream.out);
        if matches!(id, StreamId::Bidi(_)) {
            self.answer_bytes += stream.out.len() - before;
        }
        self.list(id);
    }

    pub(super) fn list(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let has_news = !stream.out.is_empty() || stream.finish;
        if has_news && !stream.blocked && !std::mem::replace(&mut stream.listed, true) {
            self.writable.push_back(id);
        }
    }

    pub(super) fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.finish = true;
            self.list(id);
        }
    }

    /// Finishes our side when everything was asked and answered.
    pub(super) fn maybe_finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let asked_all = match stream.role {
            Role::Call => stream.asked,
            Role::Lane | Role::Unnamed => stream.ended && stream.decoder.buffered() == 0,
            Role::Control | Role::Inbox => false,
        };
        if asked_all && stream.requests == 0 {
            self.finish(id);
        }
    }

    pub(super) fn forget_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.lanes -= u32::from(stream.role == Role::Lane);
            if matches!(id, StreamId::Bidi(_)) {
                let was_full = !self.has_room();
                self.answer_bytes -= stream.out.len();
                self.room_is_back |= was_full && self.has_room();
            }
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.weight < self.limits.requests_max && self.answer_bytes < self.limits.answer_bytes_max
    }
}
