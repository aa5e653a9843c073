//! Somebody on a link who does as he likes with all that passes there for a while.

use std::time::Duration;

use gateway_core::Side;
use identity::Mono;

use super::{Place, World};
use crate::{
    dice::Dice,
    objects::NODES,
    sight::{Sight, write},
    wires,
};

/// Who stands before a place.
#[derive(Clone, Debug)]
pub(super) struct Tamper {
    before: Place,
    until: Mono,
    how: How,
    dice: Dice,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug)]
enum How {
    Drops,
    Delays,
    Alters,
}

impl World {
    /// Somebody gets between a place and its neighbours, for at most a second.
    pub(super) fn start_tampering(&mut self) {
        let number = self.dice.below(self.gateways.len());
        let before = *self.dice.pick(&[
            Place::Host(number, self.dice.clone().below(NODES)),
            Place::Gateway(number, Side::Lan),
            Place::Gateway(number, Side::Wan),
        ]);
        let how = *self
            .dice
            .pick(&[How::Drops, How::Delays, How::Alters, How::Alters]);
        let until = self.now.after(self.dice.millis(50, 1000));
        self.did = format!(
            "{how:?} what comes to {before:?} until {:.3} s",
            until.0.as_secs_f32()
        );
        let dice = self.dice.split();
        self.tamper = Some(Tamper {
            before,
            until,
            how,
            dice,
        });
    }

    /// What of a packet arrives at `to`, and how much later.
    pub(super) fn tampered(&mut self, to: Place, bytes: &[u8]) -> Option<(Vec<u8>, Duration)> {
        let now = self.now;
        let Some(tamper) = (self.tamper.as_mut()).filter(|it| it.before == to && now < it.until)
        else {
            return Some((bytes.to_vec(), Duration::ZERO));
        };
        self.summary.tampered += 1;
        let dice = &mut tamper.dice;
        match tamper.how {
            How::Drops => None,
            How::Delays => Some((bytes.to_vec(), dice.millis(100, 2000))),
            How::Alters => Some((alter(to, bytes, dice), Duration::ZERO)),
        }
    }
}

/// One bit is another, anywhere in the tunnel; in a cluster in what TCP carries, with checksums that
/// hold.
fn alter(to: Place, bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut altered = bytes.to_vec();
    let mut flip = |bytes: &mut [u8]| {
        if !bytes.is_empty() {
            let place = dice.below(bytes.len());
            bytes[place] ^= 1 << dice.below(8);
        }
    };
    let link = match to {
        Place::Gateway(_, Side::Wan) => {
            flip(&mut altered[wires::HEADER..]);
            return altered;
        }
        Place::Gateway(_, Side::Lan) => wires::HEADER,
        Place::Host(..) => 0,
    };
    let Some(sight) = Sight::of(&bytes[link..]) else {
        return altered;
    };
    let mut tcp = sight.tcp.clone();
    let mut payload = sight.payload.to_vec();
    match sight.option() {
        // The MAC of a CONFIRM.
        Some(option) if option.len() == 20 => {
            let mut options = tcp.options.as_slice().to_vec();
            let at = options.windows(20).position(|part| part == option);
            if let Some(at) = at {
                flip(&mut options[at + 4..at + 20]);
            }
            if tcp.set_options_raw(&options).is_err() {
                return altered;
            }
        }
        _ => flip(&mut payload),
    }
    altered.truncate(link);
    altered.extend(write(sight.ip.clone(), tcp, &payload));
    altered
}
