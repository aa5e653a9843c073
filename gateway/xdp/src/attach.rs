//! The loader: puts the steering program on interfaces in a way that outlives this process.
//!
//! Link and maps are pinned in a BPF file system in the state directory:
//!
//! ```text
//! <state>/bpf/<interface>/link          the attachment
//! <state>/bpf/<interface>/v1/<map>      the maps of layout 1
//! ```
//!
//! A process that dies leaves them there: its sockets vanish from the map, and what was redirected
//! is dropped instead of routed. The next process adopts them; a clean exit removes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    EbpfLoader,
    programs::{
        Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};

use crate::{
    Nic, SteerConfig, SteerCounters, XdpError, XskQueue,
    bpffs::{BpfFs, StateLock, remove_pins},
    detach::detach,
    steer::{MAX_QUEUES, SteerMaps},
};

/// Rises when keys or values of a map change; maps of another layout are not adopted.
const LAYOUT: &str = "v1";
const LINK: &str = "link";

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, before the kernel allocates anything for the packet.
    #[default]
    Driver,
    /// In the network stack, for NICs whose driver has no XDP. Slower.
    Skb,
}

impl AttachMode {
    /// The word that the configuration, the metric and the status use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Skb => "skb",
        }
    }
}

/// Steering on the interfaces of one gateway. Dropping it leaves everything attached and closed, as a
/// crash does; [`Steering::close`] takes it away.
#[derive(Debug)]
pub struct Steering {
    fs: BpfFs,
    lock: StateLock,
}

impl Steering {
    /// Locks the state directory and mounts, or adopts, the BPF file system in it.
    ///
    /// # Errors
    /// [`XdpError::Misconfigured`] when another process uses the directory.
    pub fn open(state: &Path) -> Result<Self, XdpError> {
        let lock = StateLock::take(state)?;
        Ok(Self {
            fs: BpfFs::open(state)?,
            lock,
        })
    }

    /// Whether nothing is attached that an earlier process left.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        let entries = fs::read_dir(self.fs.path());
        let pinned = |path: &Path| path.join(LINK).exists();
        entries.is_ok_and(|entries| !entries.flatten().any(|entry| pinned(&entry.path())))
    }

    /// Steers packets of `interface` by `config`. An attachment that an earlier process left is
    /// adopted and its program replaced in one step, so there is no moment without it.
    ///
    /// # Errors
    /// [`XdpError::Misconfigured`] with the remedy when the NIC refuses.
    pub fn attach(
        &self,
        interface: &str,
        config: &SteerConfig,
        mode: AttachMode,
    ) -> Result<Attachment, XdpError> {
        let nic = Nic::query(interface)?;
        let pins = self.fs.directory(interface)?;
        // Maps of another layout serve a program that is about to be replaced.
        let maps = self.fs.directory(&format!("{interface}/{LAYOUT}"))?;

        let mut program = EbpfLoader::new()
            .default_map_pin_directory(&maps)
            .load(OBJECT)
            .map_err(|e| XdpError::unavailable("load the steering program", e))?;
        let mut steer = SteerMaps::take(&mut program)?;
        // Before the program runs: it must never see an empty configuration.
        steer.configure(&nic, config)?;

        let xdp: &mut Xdp = program
            .program_mut("steer")
            .ok_or_else(|| XdpError::Bug("no program \"steer\"".into()))?
            .try_into()
            .map_err(|e| XdpError::Bug(format!("\"steer\" is not XDP: {e}")))?;
        xdp.load()
            .map_err(|e| XdpError::unavailable("verify the steering program", e))?;

        let pin = pins.join(LINK);
        let (link, adopted) = match pinned_link(&pin, &nic) {
            Some(link) => (replace(xdp, link, &nic)?, true),
            None => (fresh(xdp, &nic, mode, &pin)?, false),
        };
        remove_other_layouts(&pins);
        Ok(Attachment {
            nic: Nic::query(interface)?,
            maps: steer,
            link,
            pins,
            adopted,
        })
    }

    /// Takes away what earlier processes left on interfaces other than `keep`.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn retire_all_but(&self, keep: &[&str]) -> Result<(), XdpError> {
        let failed = |e| XdpError::unavailable("remove the pins of an unused interface", e);
        for entry in fs::read_dir(self.fs.path()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // The kernel puts files of its own at the root (CONFIG_BPF_PRELOAD).
            let ours = entry.file_type().map_err(failed)?.is_dir();
            if ours && !keep.iter().any(|name| entry.file_name() == *name) {
                let pins = entry.path();
                match detach(&pins.join(LINK)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                    _ => remove_pins(&pins).map_err(failed)?,
                }
            }
        }
        Ok(())
    }

    /// A clean exit: detaches and unpins all. What is left is an empty file system, for whoever may
    /// unmount it.
    ///
    /// # Errors
    /// When a pin cannot be removed; what is left stays closed.
    pub fn close(self) -> Result<Closed, XdpError> {
        self.retire_all_but(&[])?;
        Ok(Closed { _lock: self.lock })
    }
}

/// Nothing is attached any more. The state directory stays locked while this lives, so that no other
/// process begins to use the file system while it is unmounted ([`unmount`](crate::unmount)).
#[derive(Debug)]
#[must_use]
pub struct Closed {
    _lock: StateLock,
}

/// The program on one interface. Dropping it leaves the interface attached: see [`Steering::close`].
pub struct Attachment {
    nic: Nic,
    maps: SteerMaps,
    link: FdLink,
    pins: PathBuf,
    adopted: bool,
}

impl Attachment {
    /// The interface, as it was when attached.
    #[must_use]
    pub fn nic(&self) -> &Nic {
        &self.nic
    }

    /// Whether an earlier process had attached it.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Where the program runs. An adopted attachment keeps the mode it was made with; a clean exit in
    /// between is needed to change it.
    #[must_use]
    pub fn mode(&self) -> Option<AttachMode> {
        self.nic.program.and_then(|p| p.mode)
    }

    /// Where its pins are.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Puts another configuration into force, without a moment in which what stays ours is not.
    ///
    /// # Errors
    /// When the kernel refuses an entry.
    pub fn configure(&mut self, config: &SteerConfig) -> Result<(), XdpError> {
        self.nic = Nic::query(&self.nic.name)?;
        self.maps.configure(&self.nic, config)
    }

    /// Gives the packets of `socket`'s queue to it.
    ///
    /// # Errors
    /// [`XdpError::Misconfigured`] when the queue is beyond what the program serves.
    pub fn insert(&mut self, socket: &XskQueue) -> Result<(), XdpError> {
        let (queue, name) = (socket.queue(), &self.nic.name);
        if queue >= MAX_QUEUES {
            return Err(XdpError::misconfigured(
                format!("{name} has a queue {queue}, only {MAX_QUEUES} queues are served"),
                format!("`ethtool -L {name} combined {MAX_QUEUES}`"),
            ));
        }
        self.maps
            .insert(queue, socket)
            .map_err(|e| XdpError::unavailable(format!("serve queue {queue} of {name}"), e))
    }

    /// What the program counted.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn counters(&self) -> Result<SteerCounters, XdpError> {
        self.maps
            .counters()
            .map_err(|e| XdpError::unavailable("read the steering counters", e))
    }

    /// The kernel's number of the attached program.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn program(&self) -> Result<u32, XdpError> {
        self.link
            .info()
            .map(|info| info.program_id())
            .map_err(|e| XdpError::unavailable("ask for the attachment", e))
    }
}

/// The program, compiled by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// The link pinned at `pin`, if it is what `nic` runs. A link of an interface that is gone, or of one
/// with the same name in another network namespace, is not.
pub(crate) fn pinned_link(pin: &Path, nic: &Nic) -> Option<FdLink> {
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    let program = link.info().ok()?.program_id();
    nic.program.is_some_and(|p| p.id == program).then_some(link)
}

fn replace(xdp: &mut Xdp, link: FdLink, nic: &Nic) -> Result<FdLink, XdpError> {
    let what = || format!("replace the steering program on {}", nic.name);
    let link = XdpLink::try_from(link).map_err(|e| XdpError::unavailable(what(), e))?;
    let id = xdp
        .attach_to_link(link)
        .map_err(|e| XdpError::unavailable(what(), e))?;
    held(xdp, id)
}

fn fresh(xdp: &mut Xdp, nic: &Nic, mode: AttachMode, pin: &Path) -> Result<FdLink, XdpError> {
    let name = &nic.name;
    // A pin that is not the interface's attachment is of no use any more.
    let _ = fs::remove_file(pin);
    let flags = match mode {
        AttachMode::Driver => XdpMode::Driver,
        AttachMode::Skb => XdpMode::Skb,
    };
    let id = xdp
        .attach_to_if_index(nic.index, flags)
        .map_err(|e| refused(nic, mode, e))?;
    let link = held(xdp, id)?;
    let pinned = link
        .pin(pin)
        .map_err(|e| XdpError::unavailable(format!("pin the attachment on {name}"), e))?;
    Ok(pinned.into())
}

fn held(xdp: &mut Xdp, id: aya::programs::xdp::XdpLinkId) -> Result<FdLink, XdpError> {
    xdp.take_link(id)
        .ok()
        .and_then(|link| FdLink::try_from(link).ok())
        .ok_or_else(|| XdpError::misconfigured("this kernel has no XDP links", "run Linux 5.10"))
}

/// What the errno of an attachment means for this NIC.
fn refused(nic: &Nic, mode: AttachMode, error: aya::programs::ProgramError) -> XdpError {
    let name = &nic.name;
    let (what, remedy) = match XdpError::errno(&error) {
        Some(libc::EBUSY | libc::EEXIST) => (
            format!("another XDP program is attached to {name}"),
            format!(
                "stop the process that attached it, or `ip link set dev {name} xdp off`; a gateway \
                 with another state directory also counts"
            ),
        ),
        Some(libc::ENOSPC) => too_few_queues(nic),
        Some(libc::ERANGE) => (
            format!("the MTU of {name} or of its veth peer is too large for XDP"),
            format!("`ip link set dev {name} mtu 3498`, and the same on its peer"),
        ),
        Some(libc::EOPNOTSUPP) if mode == AttachMode::Driver => (
            format!("the driver of {name} has no XDP, or not with its present features or MTU"),
            "set `xdpMode: skb` for the interface (slower), lower its MTU to 1500, or switch off \
             LRO and header split with `ethtool`"
                .into(),
        ),
        Some(libc::EPERM) => (
            format!("this process may not attach a program to {name}"),
            "run it with CAP_NET_ADMIN and CAP_BPF".into(),
        ),
        _ => {
            let mode = mode.as_str();
            return XdpError::unavailable(format!("attach to {name} in {mode} mode"), error);
        }
    };
    XdpError::misconfigured(what, remedy)
}

/// What is wrong with a veth whose far end transmits on more queues than it receives on, and the remedy.
pub(crate) fn too_few_queues(nic: &Nic) -> (String, String) {
    let name = &nic.name;
    let what = format!(
        "{name} has {} receive queues and its veth peer transmits on more",
        nic.rx_queues
    );
    let remedy = format!(
        "make {name} with `numrxqueues` of at least the peer's `numtxqueues`, or `ethtool -L {name} \
         rx N`"
    );
    (what, remedy)
}

fn remove_other_layouts(pins: &Path) {
    for entry in fs::read_dir(pins).into_iter().flatten().flatten() {
        if ![LAYOUT, LINK].iter().any(|keep| entry.file_name() == *keep)
            && let Err(e) = remove_pins(&entry.path())
        {
            tracing::warn!("{}: {e}", entry.path().display());
        }
    }
}
