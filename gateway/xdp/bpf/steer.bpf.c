// SPDX-License-Identifier: Apache-2.0
/* Which packets are ours: those go to the AF_XDP socket of their queue, all others to the kernel.
 *
 * No policy: what is redirected is judged in user space. A queue without a socket drops what is ours
 * (XDP_DROP as the fallback of bpf_redirect_map), so that a dead gateway never lets the kernel route
 * it in clear. The layout of keys and values is mirrored in src/steer.rs. */
#include "landbridge.h"

#define MAX_QUEUES 64
#define MAX_PREFIXES 8192
#define MAX_TAGS 2

enum role { ROLE_LAN = 1, ROLE_WAN = 2 };
/* What a destination means. An address of our own wins over the prefix around it (longest match). */
enum destination { DEST_REDIRECT = 1, DEST_OWN = 2 };
enum count { COUNT_REDIRECTED, COUNT_PASSED, COUNT_MISSED, COUNTS };

struct config {
	__u32 roles;
	__u32 vni;       /* VXLAN network identifier, host order; 0 = VXLAN is not ours */
	__u16 psp_port;  /* network order */
	__u16 vxlan_port;/* network order */
	__u8 mac[6];     /* frames to another station are not ours */
	__u16 reserved;
};

struct prefix4 { __u32 length; __u8 address[4]; };
struct prefix6 { __u32 length; __u8 address[16]; };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct config);
	__uint(max_entries, 1);
	__uint(pinning, PIN_BY_NAME);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix4);
	__type(value, __u32);
	__uint(max_entries, MAX_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, PIN_BY_NAME);
} prefixes4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix6);
	__type(value, __u32);
	__uint(max_entries, MAX_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, PIN_BY_NAME);
} prefixes6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, MAX_QUEUES);
	__uint(pinning, PIN_BY_NAME);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, COUNTS);
	__uint(pinning, PIN_BY_NAME);
} counters SEC(".maps");

struct ethernet { __u8 dst[6], src[6]; __u16 type; } __attribute__((packed));
struct vlan { __u16 tag, type; } __attribute__((packed));
struct ipv4 {
	__u8 version_ihl, tos;
	__u16 length, id, fragment;
	__u8 ttl, protocol;
	__u16 checksum;
	__u8 src[4], dst[4];
} __attribute__((packed));
struct ipv6 {
	__u32 flow;
	__u16 length;
	__u8 next, hops, src[16], dst[16];
} __attribute__((packed));
struct udp { __u16 src, dst, length, checksum; } __attribute__((packed));
struct vxlan { __u32 flags, vni; } __attribute__((packed));
enum { UDP = 17 };

/* Whether the datagram at `p`, sent to an address of this gateway, is tunnel traffic. */
static __always_inline int ours_udp(const struct config *c, void *p, void *end)
{
	struct udp *u = p;
	struct vxlan *v = (void *)(u + 1);

	if ((void *)(u + 1) > end)
		return 0;
	if ((c->roles & ROLE_WAN) && u->dst == c->psp_port)
		return 1;
	if (!(c->roles & ROLE_LAN) || !c->vni || u->dst != c->vxlan_port || (void *)(v + 1) > end)
		return 0;
	/* RFC 7348 section 5: the I flag says that the VNI is valid. */
	return (v->flags & be32(0x08000000)) && (be32(v->vni) >> 8) == c->vni;
}

static __always_inline int ours_v4(const struct config *c, void *p, void *end)
{
	struct ipv4 *ip = p;
	struct prefix4 key = { .length = 32 };
	__u32 *destination, header;

	if ((void *)(ip + 1) > end)
		return 0;
	__builtin_memcpy(key.address, ip->dst, 4);
	destination = bpf_map_lookup_elem(&prefixes4, &key);
	if (!destination)
		return 0;
	if (*destination == DEST_REDIRECT)
		return c->roles & ROLE_LAN;
	/* A fragment has no port to go by, or would miss its other parts: the kernel's business. */
	header = (ip->version_ihl & 15) * 4;
	if (ip->protocol != UDP || (ip->fragment & be16(0x3fff)) || header < sizeof(*ip))
		return 0;
	return ours_udp(c, p + header, end);
}

static __always_inline int ours_v6(const struct config *c, void *p, void *end)
{
	struct ipv6 *ip = p;
	struct prefix6 key = { .length = 128 };
	__u32 *destination;

	if ((void *)(ip + 1) > end)
		return 0;
	__builtin_memcpy(key.address, ip->dst, 16);
	destination = bpf_map_lookup_elem(&prefixes6, &key);
	if (!destination)
		return 0;
	if (*destination == DEST_REDIRECT)
		return c->roles & ROLE_LAN;
	/* Tunnel packets carry no extension header. */
	return ip->next == UDP && ours_udp(c, ip + 1, end);
}

static __always_inline int same_station(const __u8 *a, const __u8 *b)
{
	__u8 difference = 0;

#pragma unroll
	for (int i = 0; i < 6; i++)
		difference |= a[i] ^ b[i];
	return !difference;
}

static __always_inline int ours(struct xdp_md *ctx)
{
	void *p = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethernet *eth = p;
	struct config *c;
	__u32 zero = 0;
	__u16 type;

	c = bpf_map_lookup_elem(&config, &zero);
	if (!c || (void *)(eth + 1) > end || !same_station(eth->dst, c->mac))
		return 0;
	type = eth->type;
	p = eth + 1;
#pragma unroll
	for (int i = 0; i < MAX_TAGS; i++) {
		struct vlan *tag = p;

		if (type != be16(0x8100) && type != be16(0x88a8))
			break;
		if ((void *)(tag + 1) > end)
			return 0;
		type = tag->type;
		p = tag + 1;
	}
	return (type == be16(0x0800) && ours_v4(c, p, end)) ||
	       (type == be16(0x86dd) && ours_v6(c, p, end));
}

SEC("xdp") int steer(struct xdp_md *ctx)
{
	__u32 count = COUNT_PASSED;
	int action = XDP_PASS;
	__u64 *counter;

	if (ours(ctx)) {
		action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);
		count = action == XDP_REDIRECT ? COUNT_REDIRECTED : COUNT_MISSED;
	}
	counter = bpf_map_lookup_elem(&counters, &count);
	if (counter)
		*counter += 1;
	return action;
}

char licence[] SEC("license") = "Apache-2.0";
