//! Programs that the gateway asks: what they print, within a time and a length. None runs in a shell.

use std::{
    fmt::Write as _,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use zeroize::Zeroizing;

/// How often it is looked at whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// The most that is kept of what it has to say of an error, in bytes.
const MAX_WORDS: u64 = 600;

/// What is run, and how far it may go.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The program and its arguments.
    pub command: &'a [String],
    /// Further arguments.
    pub arguments: &'a [&'a str],
    /// What it reads; nothing when it is `None`.
    pub input: Option<&'a [u8]>,
    /// How long it may take.
    pub patience: Duration,
    /// The most that it may print, in bytes.
    pub most: u64,
    /// Nobody is at a terminal: what it writes to its standard error is part of our error, and when its
    /// time is over, all that it started ends with it. Else it may ask people, and its words go where the
    /// gateway's own go.
    pub unattended: bool,
}

impl Program<'_> {
    /// Runs it; what it printed. Waits for its end.
    ///
    /// # Errors
    /// When it cannot be run, prints too much, takes too long or fails.
    pub fn run(self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let [program, arguments @ ..] = self.command else {
            bail!("no program");
        };
        let mut command = Command::new(program);
        command.args(arguments).args(self.arguments);
        command.stdout(Stdio::piped()).stdin(match self.input {
            Some(_) => Stdio::piped(),
            None => Stdio::null(),
        });
        if self.unattended {
            command.stderr(Stdio::piped()).process_group(0);
        }
        let spawned = command.spawn();
        let mut child = spawned.with_context(|| format!("cannot run {program:?}"))?;
        let ended = self.talk(&mut child);
        if ended.is_err() {
            self.end(&mut child);
        }
        ended
    }

    fn talk(&self, child: &mut Child) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let deadline = Instant::now() + self.patience;
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), self.input) {
            let input = Zeroizing::new(input.to_vec());
            // One that does not read all of it says by its answer what that is worth.
            thread::spawn(move || stdin.write_all(&input));
        }
        let printed = read(child.stdout.take().context("no pipe")?, self.most + 1);
        let words = child.stderr.take().map(|stderr| read(stderr, MAX_WORDS));
        let bytes = self.until(deadline, &printed)?;
        if bytes.len() as u64 > self.most {
            bail!("it prints more than {} bytes", self.most);
        }
        let status = self.status(deadline, child)?;
        if !status.success() {
            let words = words.map(|words| self.until(deadline, &words)).transpose();
            bail!("it ended with {status}{}", said(words.ok().flatten()));
        }
        Ok(bytes)
    }

    fn until(
        &self,
        deadline: Instant,
        read: &Receiver<io::Result<Zeroizing<Vec<u8>>>>,
    ) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match read.recv_timeout(left) {
            Ok(read) => Ok(read?),
            Err(_) => bail!(self.late()),
        }
    }

    fn status(&self, deadline: Instant, child: &mut Child) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(self.late());
            }
            thread::sleep(LOOK);
        }
    }

    fn late(&self) -> String {
        format!("it has not ended after {} s", self.patience.as_secs())
    }

    /// It may have ended meanwhile.
    fn end(&self, child: &mut Child) {
        if self.unattended {
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Reads at most `most` bytes in a thread of its own, which ends with the pipe.
fn read(pipe: impl Read + Send + 'static, most: u64) -> Receiver<io::Result<Zeroizing<Vec<u8>>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Zeroizing::new(Vec::new());
        let read = pipe.take(most).read_to_end(&mut bytes);
        // Nobody hears it when the time is over.
        let _ = sender.send(read.map(|_| bytes));
    });
    receiver
}

/// What it had to say, on one line.
fn said(words: Option<Zeroizing<Vec<u8>>>) -> String {
    let words = words.unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    let mut line = String::new();
    for word in words.split(|c: char| c.is_whitespace() || c.is_control()) {
        if !word.is_empty() {
            let _ = write!(line, "{}{word}", if line.is_empty() { ": " } else { " " });
        }
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn run(
        script: &str,
        input: Option<&[u8]>,
        patience: Duration,
        unattended: bool,
    ) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let command = ["sh", "-c", script, "sh"].map(str::to_owned);
        Program {
            command: &command,
            arguments: &["one", "two words"],
            input,
            patience,
            most: 4096,
            unattended,
        }
        .run()
    }

    fn error(script: &str, patience: Duration, unattended: bool) -> String {
        format!("{:#}", run(script, None, patience, unattended).unwrap_err())
    }

    #[test]
    fn what_it_prints_is_taken_within_its_bounds() {
        for unattended in [false, true] {
            let printed = run("echo $2", None, LONG, unattended).unwrap();
            assert_eq!(*printed, b"two words\n");
            assert!(error("echo x; exit 3", LONG, unattended).contains("exit status: 3"));
            assert!(error("yes", LONG, unattended).contains("more than 4096 bytes"));
            let short = Duration::from_millis(50);
            assert!(error("exec sleep 60", short, unattended).contains("has not ended"));
            let closed = "exec >&- 2>&-; exec sleep 60";
            assert!(error(closed, short, unattended).contains("has not ended"));
        }
        let command = ["/no/such/program".to_owned()];
        let program = Program {
            command: &command,
            arguments: &[],
            input: None,
            patience: LONG,
            most: 1,
            unattended: true,
        };
        let none = format!("{:#}", program.run().unwrap_err());
        assert!(none.contains("cannot run"), "{none}");
    }

    #[test]
    fn it_reads_what_it_is_given_or_not() {
        let input = vec![b'a'; 1 << 20];
        let counted = run("wc -c", Some(&input), LONG, true).unwrap();
        assert_eq!(*counted, b"1048576\n");
        let ignored = run("echo done", Some(&input), LONG, true).unwrap();
        assert_eq!(*ignored, b"done\n");
    }

    #[test]
    fn its_words_are_in_the_error_and_bounded() {
        let told = error("printf 'no\\n\\033card' >&2; exit 1", LONG, true);
        assert_eq!(told, "it ended with exit status: 1: no card");
        let much = error(
            "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1",
            LONG,
            true,
        );
        assert!(much.len() < 700, "{much}");
    }

    /// What it started would hold the pipe, and go on.
    #[test]
    fn nothing_that_it_started_outlives_its_time() {
        let (mut outlives, held) = io::pipe().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&held);
        nix::fcntl::fcntl(
            &held,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
        )
        .unwrap();
        let script = format!("sleep 60 & echo >&{fd}; wait");
        assert!(error(&script, Duration::from_secs(1), true).contains("has not ended"));
        drop(held);
        // Ends when nobody holds the other end any more.
        let mut all = Vec::new();
        outlives.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"\n");
    }
}
