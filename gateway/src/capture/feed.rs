//! From packets to lines of JSON.

use std::fmt::Write as _;

use base64::{Engine, prelude::BASE64_STANDARD};
use handshake::transit::{Party, Standing};
use observe::AuditLog;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Duration, Interval, MissedTickBehavior, interval},
};

use super::tap::{Image, Place, Seen, Turn};

/// How often the one who asks hears how many packets there were, also when there were none.
const COUNTS: Duration = Duration::from_secs(1);

/// What goes to the one who asked, and ends with them.
pub(super) struct Feed {
    pub turn: Turn,
    pub packets: mpsc::Receiver<Seen>,
    pub lines: mpsc::Sender<String>,
    /// Of the capture, for the audit log.
    pub about: Value,
    pub audit: AuditLog,
}

impl Feed {
    /// Until nobody listens any more.
    pub async fn run(mut self, first: Value) {
        let mut counts = interval(COUNTS);
        counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Either nobody listens any more, or it never ends.
        let _ = self.feed(first, &mut counts).await;
        let [captured, lost] = self.turn.running.counts();
        let mut about = self.about;
        about["captured"] = captured.into();
        about["lost"] = lost.into();
        if let Err(e) = self.audit.write("capture-ends", &about) {
            tracing::error!("the end of a capture is not in the audit log: {e}");
        }
    }

    async fn feed(
        &mut self,
        first: Value,
        counts: &mut Interval,
    ) -> Result<(), mpsc::error::SendError<String>> {
        self.lines.send(line(&first)).await?;
        loop {
            tokio::select! {
                () = self.lines.closed() => return Ok(()),
                Some(seen) = self.packets.recv() => {
                    for image in &seen.images {
                        self.lines.send(line(&packet(&seen, image))).await?;
                    }
                }
                _ = counts.tick() => {
                    let [captured, lost] = self.turn.running.counts();
                    self.lines.send(line(&json!({"captured": captured, "lost": lost}))).await?;
                }
            }
        }
    }
}

fn line(value: &Value) -> String {
    let mut line = value.to_string();
    line.push('\n');
    line
}

fn packet(seen: &Seen, image: &Image) -> Value {
    let place = match image.place {
        Place::Lan => "lan",
        Place::Wan => "wan",
        Place::Tunnel => "tunnel",
    };
    json!({
        "at": seen.at,
        "place": place,
        "inbound": image.inbound,
        "length": image.length,
        "bytes": BASE64_STANDARD.encode(&image.bytes),
        "comment": comment(seen, image),
    })
}

/// The verdict, and who both ends are. One line each.
fn comment(seen: &Seen, image: &Image) -> String {
    let mut comment = match (image.answer, seen.dropped) {
        (false, None) => String::from("forwarded"),
        (false, Some(reason)) => format!("dropped: {}", reason.as_str()),
        (true, reason) => format!(
            "answer of this gateway to a packet that it dropped: {}",
            reason.map_or("", |reason| reason.as_str())
        ),
    };
    if let Some(rule) = &seen.rule {
        // Writing into a String does not fail.
        let _ = write!(comment, " by {rule}");
    }
    if let Some(peer) = &seen.peer {
        let _ = write!(comment, "\npeer: {peer}");
    }
    let [sender, receiver] = &seen.ends;
    // An answer speaks for the one that it was sent to.
    let ends = match image.answer {
        true => [receiver, sender],
        false => [sender, receiver],
    };
    for (word, end) in ["from", "to"].into_iter().zip(ends) {
        let _ = match end {
            Some(party) => write!(
                comment,
                "\n{word}: {}",
                words(party, seen.dropped.is_none())
            ),
            None => write!(comment, "\n{word}: unknown"),
        };
    }
    comment
}

fn words(party: &Party, forwarded: bool) -> String {
    let claims = &party.claims;
    let labels: Vec<_> = claims
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let standing = match (party.standing, forwarded) {
        (Standing::OfFlow, true) => "proven",
        (Standing::OfFlow, false) => "who has the flow on these ports",
        (Standing::Presented, _) => "whose credential it carries",
        (Standing::Listed, _) => "who has the address",
    };
    format!(
        "{} {} {{{}}} ({standing})",
        claims.display_name(),
        claims.subject,
        labels.join(",")
    )
}
