//! Writes pcapng (draft-ietf-opsawg-pcapng-05), as much of it as a capture needs.
//!
//! ```text
//! block   0..4 type   4..8 length of the whole block   8..   body   last 4: the length again
//! option  0..2 code   2..4 length of the value         4..   the value, padded to 4 bytes
//! ```
//!
//! All numbers are little-endian: the first block says so (section 4.1).

use std::io::{self, Write};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
const END: u16 = 0;
const COMMENT: u16 = 1;
/// The longest value of an option that is written.
const MAX_VALUE: usize = 32_768;

/// A capture that is being written.
#[derive(Debug)]
pub struct Writer<W>(W);

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The number of its interface, in the order in which they were described.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub at: u64,
    /// Whether it came in there.
    pub inbound: bool,
    /// Its length on the wire.
    pub length: u32,
    /// What was kept of it.
    pub bytes: &'a [u8],
    /// Words for people.
    pub comment: &'a str,
}

impl<W: Write> Writer<W> {
    /// Writes the section header and a description of each Ethernet interface: its name, and words about it.
    pub fn new(
        out: W,
        program: &str,
        interfaces: &[(&str, &str)],
        snaplen: u32,
    ) -> io::Result<Self> {
        let mut writer = Self(out);
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend([1, 0, 0, 0]);
        // How long the section is, is not known.
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, 4, program.as_bytes());
        writer.block(SECTION_HEADER, body)?;
        for (name, about) in interfaces {
            let mut body = Vec::new();
            body.extend(ETHERNET.to_le_bytes());
            body.extend([0, 0]);
            body.extend(snaplen.to_le_bytes());
            option(&mut body, 2, name.as_bytes());
            option(&mut body, 3, about.as_bytes());
            // Times are in 10^-9 s.
            option(&mut body, 9, &[9]);
            writer.block(INTERFACE_DESCRIPTION, body)?;
        }
        Ok(writer)
    }

    /// Writes a packet.
    pub fn packet(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut body = Vec::with_capacity(packet.bytes.len() + packet.comment.len() + 64);
        body.extend(packet.interface.to_le_bytes());
        body.extend(time(packet.at));
        body.extend((packet.bytes.len() as u32).to_le_bytes());
        body.extend(packet.length.to_le_bytes());
        body.extend(packet.bytes);
        pad(&mut body);
        let direction: u32 = if packet.inbound { 1 } else { 2 };
        option(&mut body, 2, &direction.to_le_bytes());
        option(&mut body, COMMENT, packet.comment.as_bytes());
        self.block(ENHANCED_PACKET, body)
    }

    /// Writes how many packets there were in all, and how many are missing.
    pub fn statistics(
        &mut self,
        interface: u32,
        at: u64,
        [received, lost]: [u64; 2],
    ) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend(interface.to_le_bytes());
        body.extend(time(at));
        option(&mut body, 4, &received.to_le_bytes());
        option(&mut body, 5, &lost.to_le_bytes());
        self.block(INTERFACE_STATISTICS, body)
    }

    /// Hands everything on.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    /// A block with its options, which are closed here.
    fn block(&mut self, kind: u32, mut body: Vec<u8>) -> io::Result<()> {
        option(&mut body, END, &[]);
        let length = (body.len() as u32 + 12).to_le_bytes();
        let whole = [&kind.to_le_bytes()[..], &length, &body, &length].concat();
        self.0.write_all(&whole)
    }
}

/// The upper half comes first (section 4.3).
fn time(at: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&((at >> 32) as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&(at as u32).to_le_bytes());
    bytes
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..MAX_VALUE).unwrap_or(value);
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::process::Command;

    use super::*;

    fn packets() -> Vec<u8> {
        let mut out = Vec::new();
        let interfaces = [("lan0", "towards the nodes"), ("wan0", "towards the peers")];
        let mut writer = Writer::new(&mut out, "landbridge", &interfaces, 65_535).unwrap();
        for (number, inbound) in [(0u8, true), (1, false)] {
            let mut frame = vec![number; 43];
            frame[12..14].copy_from_slice(&[0x08, 0x00]);
            writer
                .packet(&Packet {
                    interface: number.into(),
                    at: 1_795_360_000_123_456_789,
                    inbound,
                    length: 1_500,
                    bytes: &frame,
                    comment: "forwarded\nto: ünknown",
                })
                .unwrap();
        }
        writer
            .statistics(0, 1_795_360_001_000_000_000, [2, 7])
            .unwrap();
        out
    }

    /// Not what we believe of the format, but what those believe who will open the file.
    #[test]
    fn tshark_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.pcapng");
        std::fs::write(&path, packets()).unwrap();
        let fields = [
            "frame.interface_name",
            "frame.interface_description",
            "frame.time_epoch",
            "frame.cap_len",
            "frame.len",
            "frame.packet_flags_direction",
            "frame.comment",
        ];
        let fields = fields.iter().flat_map(|field| ["-e", field]);
        let mut command = Command::new("tshark");
        command
            .arg("-r")
            .arg(&path)
            .args(["-T", "fields"])
            .args(fields);
        let told = command
            .output()
            .expect("tshark is installed by scripts/setup");
        let told = String::from_utf8(told.stdout).unwrap();
        let lines: Vec<Vec<&str>> = told
            .lines()
            .map(|line| line.split('\t').collect())
            .collect();
        for (line, (name, about, direction)) in lines.iter().zip([
            ("lan0", "towards the nodes", "1"),
            ("wan0", "towards the peers", "2"),
        ]) {
            assert_eq!(line[..2], [name, about]);
            assert_eq!(line[2], "1795360000.123456789");
            assert_eq!(line[3..5], ["43", "1500"]);
            assert!(line[5].ends_with(direction), "{line:?}");
            assert!(
                line[6].contains("forwarded") && line[6].contains("ünknown"),
                "{line:?}"
            );
        }
        assert_eq!(lines.len(), 2, "{told}");
    }

    #[test]
    fn an_endless_comment_is_cut() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, "landbridge", &[("lan0", "")], 100).unwrap();
        let comment = "x".repeat(1 << 20);
        let packet = Packet {
            interface: 0,
            at: 0,
            inbound: true,
            length: 0,
            bytes: &[],
            comment: &comment,
        };
        writer.packet(&packet).unwrap();
        assert!(out.len() < MAX_VALUE + 300);
    }
}
