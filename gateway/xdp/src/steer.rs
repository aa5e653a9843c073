//! What the steering program takes from the kernel: configuration in words, and as the bytes of its
//! maps (bpf/steer.bpf.c).

use std::{collections::BTreeMap, net::IpAddr};

use aya::{
    Ebpf, Pod,
    maps::{
        Array, MapData, MapError, PerCpuArray, XskMap,
        lpm_trie::{Key, LpmTrie},
    },
};
use ipnet::IpNet;

use crate::{Nic, XdpError, XskQueue};

/// Which packets arriving on one interface are redirected to user space. Everything else (ARP,
/// neighbour discovery, QUIC, the host's own traffic) goes to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SteerConfig {
    /// The interface faces the nodes of the own cluster: take what is addressed into `redirect`, and
    /// VXLAN.
    pub lan: bool,
    /// The interface faces other gateways: take PSP datagrams.
    pub wan: bool,
    /// The gateway's own addresses on this interface: PSP and VXLAN are taken only when sent to them.
    pub own: Vec<IpAddr>,
    /// Prefixes that are taken whole, such as the pod ranges of remote clusters.
    pub redirect: Vec<IpNet>,
    /// The UDP port of PSP.
    pub psp_port: u16,
    /// VXLAN from the nodes, when they are not on one segment with the gateway.
    pub vxlan: Option<Vxlan>,
}

/// The VXLAN network that is ours (RFC 7348).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network identifier: 1 to 2^24 - 1.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
}

/// What the steering program counted on one interface since it was attached first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounters {
    /// Packets handed to an AF_XDP socket.
    pub redirected: u64,
    /// Packets left to the kernel.
    pub passed: u64,
    /// Packets of ours dropped because their queue had no socket.
    pub missed: u64,
}

/// The most queues of one NIC that can have a socket: `MAX_QUEUES` of the program.
pub(crate) const MAX_QUEUES: u32 = 64;

/// The maps of one attached program.
pub(crate) struct SteerMaps {
    config: Array<MapData, RawConfig>,
    prefixes4: LpmTrie<MapData, [u8; 4], u32>,
    prefixes6: LpmTrie<MapData, [u8; 16], u32>,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
}

impl SteerMaps {
    pub(crate) fn take(program: &mut Ebpf) -> Result<Self, XdpError> {
        let mut take = |name: &str| {
            let bug = || XdpError::Bug(format!("the program has no map {name:?}"));
            program.take_map(name).ok_or_else(bug)
        };
        let wrong = |e: MapError| XdpError::Bug(format!("a map has another layout: {e}"));
        Ok(Self {
            config: Array::try_from(take("config")?).map_err(wrong)?,
            prefixes4: LpmTrie::try_from(take("prefixes4")?).map_err(wrong)?,
            prefixes6: LpmTrie::try_from(take("prefixes6")?).map_err(wrong)?,
            sockets: XskMap::try_from(take("sockets")?).map_err(wrong)?,
            counters: PerCpuArray::try_from(take("counters")?).map_err(wrong)?,
        })
    }

    /// Puts `wanted` into force on `nic`. Prefixes are added before others are removed, so nothing
    /// that was and stays ours is ever left to the kernel in between.
    pub(crate) fn configure(&mut self, nic: &Nic, wanted: &SteerConfig) -> Result<(), XdpError> {
        let failed = |e: MapError| {
            XdpError::unavailable(format!("configure the steering program on {}", nic.name), e)
        };
        let raw = RawConfig::new(nic, wanted)?;
        let (v4, v6) = destinations(wanted);
        sync(&mut self.prefixes4, &v4).map_err(failed)?;
        sync(&mut self.prefixes6, &v6).map_err(failed)?;
        self.config.set(0, raw, 0).map_err(failed)?;
        prune(&mut self.prefixes4, &v4).map_err(failed)?;
        prune(&mut self.prefixes6, &v6).map_err(failed)
    }

    pub(crate) fn insert(&mut self, queue: u32, socket: &XskQueue) -> Result<(), MapError> {
        use std::os::fd::{AsFd, AsRawFd};
        self.sockets.set(queue, socket.as_fd().as_raw_fd(), 0)
    }

    pub(crate) fn counters(&self) -> Result<SteerCounters, MapError> {
        let sum = |index| {
            let values = self.counters.get(&index, 0)?;
            Ok::<u64, MapError>(values.iter().sum())
        };
        Ok(SteerCounters {
            redirected: sum(0)?,
            passed: sum(1)?,
            missed: sum(2)?,
        })
    }
}

/// `struct config` of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RawConfig {
    roles: u32,
    vni: u32,
    psp_port: [u8; 2],
    vxlan_port: [u8; 2],
    mac: [u8; 6],
    reserved: [u8; 2],
}

// SAFETY: `repr(C)`, integers and bytes only, 20 bytes without a gap: any bytes are a value.
unsafe impl Pod for RawConfig {}

impl RawConfig {
    fn new(nic: &Nic, wanted: &SteerConfig) -> Result<Self, XdpError> {
        let vxlan = wanted.vxlan.unwrap_or(Vxlan { vni: 0, port: 0 });
        if vxlan.vni >= 1 << 24 || (wanted.vxlan.is_some() && vxlan.vni == 0) {
            return Err(XdpError::misconfigured(
                format!(
                    "VXLAN network identifier {} is not 1 to 16777215",
                    vxlan.vni
                ),
                "correct the VNI in the configuration",
            ));
        }
        Ok(Self {
            roles: u32::from(wanted.lan) | u32::from(wanted.wan) << 1,
            vni: vxlan.vni,
            psp_port: wanted.psp_port.to_be_bytes(),
            vxlan_port: vxlan.port.to_be_bytes(),
            mac: nic.mac,
            reserved: [0; 2],
        })
    }
}

const DEST_REDIRECT: u32 = 1;
const DEST_OWN: u32 = 2;

type Destinations<const N: usize> = BTreeMap<(u32, [u8; N]), u32>;

/// The entries of the two tries. An own address hides a prefix of the same length: traffic to the
/// gateway itself is never a pod's.
fn destinations(wanted: &SteerConfig) -> (Destinations<4>, Destinations<16>) {
    let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
    let prefixes = wanted
        .redirect
        .iter()
        .map(|net| (net.trunc(), DEST_REDIRECT));
    let own = wanted.own.iter().map(|a| (IpNet::from(*a), DEST_OWN));
    for (net, meaning) in prefixes.chain(own) {
        let length = u32::from(net.prefix_len());
        match net.network() {
            IpAddr::V4(a) => v4.insert((length, a.octets()), meaning),
            IpAddr::V6(a) => v6.insert((length, a.octets()), meaning),
        };
    }
    (v4, v6)
}

fn sync<const N: usize>(
    trie: &mut LpmTrie<MapData, [u8; N], u32>,
    wanted: &Destinations<N>,
) -> Result<(), MapError>
where
    [u8; N]: Pod,
{
    wanted.iter().try_for_each(|((length, address), meaning)| {
        trie.insert(&Key::new(*length, *address), meaning, 0)
    })
}

fn prune<const N: usize>(
    trie: &mut LpmTrie<MapData, [u8; N], u32>,
    wanted: &Destinations<N>,
) -> Result<(), MapError>
where
    [u8; N]: Pod,
{
    let keys = trie.keys().collect::<Result<Vec<_>, _>>()?;
    for key in keys {
        if !wanted.contains_key(&(key.prefix_len(), key.data())) {
            trie.remove(&key)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn nic() -> Nic {
        Nic::query("lo").unwrap()
    }

    #[test]
    fn the_configuration_has_the_bytes_that_the_program_reads() {
        let config = SteerConfig {
            lan: true,
            wan: true,
            psp_port: 1000,
            vxlan: Some(Vxlan {
                vni: 77,
                port: 4789,
            }),
            ..SteerConfig::default()
        };
        let raw = RawConfig::new(&nic(), &config).unwrap();
        assert_eq!(size_of::<RawConfig>(), 20);
        assert_eq!((raw.roles, raw.vni), (3, 77));
        assert_eq!((raw.psp_port, raw.vxlan_port), ([0x03, 0xe8], [0x12, 0xb5]));
    }

    #[test]
    fn an_impossible_vni_is_refused() {
        for vni in [0, 1 << 24] {
            let vxlan = Some(Vxlan { vni, port: 4789 });
            let config = SteerConfig {
                vxlan,
                ..SteerConfig::default()
            };
            assert!(RawConfig::new(&nic(), &config).is_err());
        }
    }

    #[test]
    fn an_own_address_hides_a_prefix_of_the_same_length() {
        let config = SteerConfig {
            own: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            redirect: vec![
                "10.2.3.4/16".parse().unwrap(),
                "192.0.2.1/32".parse().unwrap(),
                "fd00:2::/48".parse().unwrap(),
            ],
            ..SteerConfig::default()
        };
        let (v4, v6) = destinations(&config);
        assert_eq!(v4[&(16, [10, 2, 0, 0])], DEST_REDIRECT);
        assert_eq!(v4[&(32, [192, 0, 2, 1])], DEST_OWN);
        assert_eq!(v4.len(), 2);
        assert_eq!(v6.len(), 2);
    }
}
