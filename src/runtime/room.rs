//! How many slots a number of bytes has room for.

use crate::math::Float;
use crate::model::Config;
use crate::policy::SlotLayout;
use crate::runtime::slots::{GROWTH_PART, SPARE_PART};
use crate::runtime::{Budget, Compression, RuntimeError};

/// Part of a budget of bytes that new tokens may fill before a head is compressed again.
const SLACK_PART: usize = 16;
/// Bytes of the two masses by which heads are compressed again in decode.
const MASS_BYTES: usize = 8;

impl Compression {
    /// Keeps the whole cache within so many bytes, in decode too: every head may hold the same number of slots, and grow by
    /// [`Compression::decode_slack`] of them, or a 16th, before it is compressed again.
    ///
    /// - Errors: fewer bytes than one slot of every head takes, with room to grow
    pub fn within_bytes(self, bytes: u64, config: &Config, kind: Float) -> Result<Self, RuntimeError> {
        let n_heads = (config.n_layers * config.n_kv_heads) as u64;
        let layout = SlotLayout { element: kind, head_dim: config.head_dim, extras: self.policy.slot_extras() };
        let slot = (layout.bytes() + MASS_BYTES) as u64;
        let part = GROWTH_PART as u64;
        let room = (bytes / part * (part - 1) / slot) as usize;
        // A head of a layer with a window never has more than that and what gathers behind it.
        let taken = |slots: usize| -> usize {
            let of_layer = |window: &Option<usize>| window.map_or(slots, |w| slots.min(w + w / SPARE_PART + 1));
            config.windows.iter().map(of_layer).sum::<usize>() * config.n_kv_heads
        };
        // Of all numbers of slots, the largest that the room holds: there is one layer at least, so no more than there is room.
        let (mut most, mut too_many) = (0, room + 1);
        while too_many - most > 1 {
            let between = most + (too_many - most) / 2;
            if taken(between) <= room { most = between } else { too_many = between }
        }
        let slack = self.decode_slack.unwrap_or((most / SLACK_PART).max(1));
        match most.checked_sub(slack + 1).filter(|slots| *slots > 0) {
            Some(slots) => Ok(Self { budget: Budget::Tokens(slots), decode_slack: Some(slack), ..self }),
            None => {
                let least = (slack as u64 + 2) * n_heads * slot * part / (part - 1) + part;
                Err(RuntimeError::NoRoom { bytes, n_heads, least })
            }
        }
    }
}
