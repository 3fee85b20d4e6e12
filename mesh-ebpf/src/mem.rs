//! The only unsafe code: packet memory, map values, kernel helpers.

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_DONT_FRAGMENT, BPF_F_ZERO_CSUM_TX,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_fib_lookup, bpf_tunnel_key,
    },
    helpers::generated as kernel,
    maps::{HashMap, LruHashMap, PerCpuArray, ProgramArray},
    programs::{TcContext, XdpContext},
};
use mesh_common::{
    Addr, CHUNK_LINES, DropReason, FlowKey, Line, VerdictCount,
    wire::{ETH_LEN, IPV4_LEN, OUTER_TTL, OVERHEAD},
};

use crate::{
    extensions,
    family::{Family, V6},
    maps,
    packet::{self, Tuple},
};

/// A packet whose headers can be read and written in place, whatever the hook.
pub trait Packet {
    /// Address of the first byte.
    fn start(&self) -> usize;
    /// Address after the last byte that can be reached directly.
    fn end(&self) -> usize;
    /// Length of the whole packet with its Ethernet header.
    fn length(&self) -> u32;
    /// The hook's context, for helpers that take any.
    fn context(&self) -> *mut core::ffi::c_void;
    /// Interface it came in by.
    fn ifindex(&self) -> u32;
    /// Bytes of the packet wherever they are: by a helper, which costs a call, but takes any offset. The verifier
    /// does not follow an address whose offset is not known beforehand.
    fn fetch<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
    /// What of the packet whose IP header is at `ip` is behind its extension headers, where the hook looks there.
    /// `None`: cut short.
    fn behind_extensions(&self, ip: usize, tuple: Tuple<V6>) -> Option<Tuple<V6>>;
}

impl Packet for XdpContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }
    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
    #[inline(always)]
    fn length(&self) -> u32 {
        (self.data_end() - self.data()) as u32
    }
    #[inline(always)]
    fn context(&self) -> *mut core::ffi::c_void {
        self.as_ptr()
    }
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ingress_ifindex() as u32
    }
    #[inline(always)]
    fn fetch<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: the helper writes as many bytes as it is told.
        let answer = unsafe {
            kernel::bpf_xdp_load_bytes(self.ctx, offset as u32, (&raw mut bytes).cast(), N as u32)
        };
        if answer == 0 { Some(bytes) } else { None }
    }
    #[inline(always)]
    fn behind_extensions(&self, _ip: usize, mut tuple: Tuple<V6>) -> Option<Tuple<V6>> {
        // Not where a header without extensions ends.
        tuple.l4 = 0;
        Some(tuple)
    }
}

impl Packet for TcContext {
    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }
    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }
    #[inline(always)]
    fn length(&self) -> u32 {
        self.len()
    }
    #[inline(always)]
    fn context(&self) -> *mut core::ffi::c_void {
        self.as_ptr()
    }
    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands over a valid context.
        unsafe { (*self.skb.skb).ifindex }
    }
    #[inline(always)]
    fn fetch<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        TcContext::load(self, offset).ok()
    }
    #[inline(always)]
    fn behind_extensions(&self, ip: usize, tuple: Tuple<V6>) -> Option<Tuple<V6>> {
        extensions::walk(self, ip, tuple)
    }
}

#[inline(always)]
fn at<const N: usize>(packet: &impl Packet, offset: usize) -> Option<*mut [u8; N]> {
    let pointer = packet.start() + offset;
    if pointer + N > packet.end() {
        None
    } else {
        Some(pointer as *mut [u8; N])
    }
}

/// Whether `length` bytes can be reached directly.
#[inline(always)]
pub fn reaches(packet: &impl Packet, length: usize) -> bool {
    packet.start() + length <= packet.end()
}

/// Bytes of the packet.
#[inline(always)]
pub fn bytes<const N: usize>(packet: &impl Packet, offset: usize) -> Option<[u8; N]> {
    // SAFETY: `at` has checked the bounds; bytes need no alignment.
    at::<N>(packet, offset).map(|p| unsafe { *p })
}

/// A byte of the packet.
#[inline(always)]
pub fn u8_at(packet: &impl Packet, offset: usize) -> Option<u8> {
    bytes::<1>(packet, offset).map(|[b]| b)
}

/// A word of the packet. The compiler would put an unaligned read together from single bytes.
#[inline(always)]
fn word<T: Copy, const N: usize>(packet: &impl Packet, offset: usize) -> Option<T> {
    const { assert!(size_of::<T>() == N) };
    // SAFETY: `at` has checked the bounds. eBPF has no alignment: where the processor has one, the verifier does not
    // load the program.
    at::<N>(packet, offset).map(|p| unsafe { p.cast::<T>().read() })
}

/// Two bytes of the packet, as they stand there.
#[inline(always)]
pub fn u16_at(packet: &impl Packet, offset: usize) -> Option<u16> {
    word::<u16, 2>(packet, offset)
}

/// Four bytes of the packet, as they stand there.
#[inline(always)]
pub fn u32_at(packet: &impl Packet, offset: usize) -> Option<u32> {
    word::<u32, 4>(packet, offset)
}

/// An IPv6 address of the packet.
#[inline(always)]
pub fn addr_at(packet: &impl Packet, offset: usize) -> Option<Addr> {
    word::<Addr, 16>(packet, offset)
}

/// What tells most packets that are nobody's here, if they are IPv4: as it stands in the packet.
pub struct Glance {
    pub ethertype: u16,
    pub version: u8,
    pub protocol: u8,
    pub dport: u16,
}

/// Reads it with one test of bounds. `None`: shorter than that.
#[inline(always)]
pub fn glance(packet: &impl Packet) -> Option<Glance> {
    const LENGTH: usize = ETH_LEN + IPV4_LEN + 4;
    let start = at::<LENGTH>(packet, 0)?.cast::<u8>();
    // SAFETY: `at` has checked the bounds; as for the alignment, see `word`.
    Some(unsafe {
        Glance {
            ethertype: start.add(12).cast::<u16>().read(),
            version: start.add(ETH_LEN).read(),
            protocol: start.add(ETH_LEN + 9).read(),
            dport: start.add(ETH_LEN + IPV4_LEN + 2).cast::<u16>().read(),
        }
    })
}

/// What a checksum changes by when `old` becomes `new`.
#[inline(always)]
pub fn difference(old: &Addr, new: &Addr) -> Result<u64, DropReason> {
    const LENGTH: u32 = size_of::<Addr>() as u32;
    // SAFETY: the helper reads as many bytes of both as it is told.
    let sum = unsafe {
        kernel::bpf_csum_diff(
            (&raw const *old).cast_mut().cast(),
            LENGTH,
            (&raw const *new).cast_mut().cast(),
            LENGTH,
            0,
        )
    };
    u64::try_from(sum).map_err(|_| DropReason::Kernel)
}

/// Overwrites bytes of the packet in place. Not for bytes under a checksum that the kernel keeps.
#[inline(always)]
pub fn write<const N: usize>(
    packet: &impl Packet,
    offset: usize,
    value: [u8; N],
) -> Result<(), DropReason> {
    let pointer = at::<N>(packet, offset).ok_or(DropReason::Malformed)?;
    // SAFETY: `at` has checked the bounds, and nothing else refers to the packet.
    unsafe { *pointer = value };
    Ok(())
}

/// As [`write`], two bytes.
#[inline(always)]
pub fn write_u16(packet: &impl Packet, offset: usize, value: u16) -> Result<(), DropReason> {
    let pointer = at::<2>(packet, offset).ok_or(DropReason::Malformed)?;
    // SAFETY: as `write`; as for the alignment, see `word`.
    unsafe { pointer.cast::<u16>().write(value) };
    Ok(())
}

/// As [`write`], by words.
#[inline(always)]
pub fn write_words<const N: usize, const BYTES: usize>(
    packet: &impl Packet,
    offset: usize,
    value: [u32; N],
) -> Result<(), DropReason> {
    const { assert!(4 * N == BYTES) };
    let pointer = at::<BYTES>(packet, offset).ok_or(DropReason::Malformed)?;
    // SAFETY: as `write`; as for the alignment, see `word`.
    unsafe { pointer.cast::<[u32; N]>().write(value) };
    Ok(())
}

/// Makes the first `length` bytes directly reachable, or as many as there are.
#[inline(always)]
pub fn pull(ctx: &TcContext, length: usize) {
    if !reaches(ctx, length) {
        let length = if ctx.len() < length as u32 {
            ctx.len()
        } else {
            length as u32
        };
        // A failure shows as a header that cannot be read.
        let _ = ctx.pull_data(length);
    }
}

/// Whether the packet has no VLAN tag in its metadata, where the kernel keeps it. One with a tag is another
/// interface's; a priority tag, which names no VLAN, is taken off.
#[inline(always)]
pub fn untag(ctx: &TcContext) -> bool {
    /// The bits of a tag that number the VLAN.
    const ID: u32 = 0xfff;
    // SAFETY: the kernel hands over a valid context.
    let (tagged, tag) = unsafe { ((*ctx.skb.skb).vlan_present, (*ctx.skb.skb).vlan_tci) };
    // SAFETY: the context is the kernel's own; packet addresses are derived afterwards.
    tagged == 0 || tag & ID == 0 && unsafe { kernel::bpf_skb_vlan_pop(ctx.skb.skb) } == 0
}

/// A value of a hash map.
#[inline(always)]
pub fn get<K, V>(map: &'static HashMap<K, V>, key: &K) -> Option<&'static V> {
    // SAFETY: user space replaces values as a whole and programs only read them; a value removed
    // meanwhile is at worst that of a newer key, which the next packet corrects.
    unsafe { map.get(key) }
}

/// A value of an LRU hash map.
#[inline(always)]
pub fn get_flow<K, V>(map: &'static LruHashMap<K, V>, key: &K) -> Option<&'static V> {
    // SAFETY: as `get`; an evicted entry may be reused under a reader, who then handles one packet as another flow's.
    unsafe { map.get(key) }
}

/// A line of `ROWS`.
#[inline(always)]
pub fn line(number: u32) -> Option<&'static Line> {
    let lines = maps::ROWS.get(number / CHUNK_LINES)?;
    let within = number % CHUNK_LINES;
    // SAFETY: the map is one of lines by index, and none is removed while a program may use it. Programs only read lines, and
    // user space writes one before any row refers to it.
    unsafe {
        let line = kernel::bpf_map_lookup_elem(
            (&raw const *lines).cast_mut().cast(),
            (&raw const within).cast(),
        );
        line.cast::<Line>().as_ref()
    }
}

/// Writes an entry of a table that only programs write, one of the `TABLE_` constants, and counts it. `new`: the table
/// has no entry with the key. Whether the kernel took it.
#[inline(always)]
pub fn keep<K, V>(
    map: &'static LruHashMap<K, V>,
    table: u32,
    key: &K,
    value: &V,
    new: bool,
) -> bool {
    let kept = map.insert(key, value, 0).is_ok();
    count_entry(table, new.into(), kept.into());
    kept
}

/// Counts an entry that was to be kept. (A function of its own, or the compiler computes with pointers what `new` was.)
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count_entry(table: u32, new: u32, kept: u32) -> u32 {
    if let Some(count) = own(&maps::TABLES, table) {
        count.inserted += u64::from(new & kept);
        count.refused += u64::from(kept ^ 1);
    }
    0
}

/// Removes an entry of such a table. One that is gone already is as good.
#[inline(always)]
pub fn remove<K, V>(map: &'static LruHashMap<K, V>, table: u32, key: &K) {
    let removed = map.remove(key).is_ok();
    if let Some(count) = own(&maps::TABLES, table) {
        count.removed += u64::from(removed);
    }
}

/// Notes on a remembered flow that the other side has sent a packet, whether the flow is over, and how replies go.
#[inline(always)]
pub fn touch(key: &FlowKey, now_s: u32, closed: u8, kind: u8) {
    if let Some(nat) = maps::FLOWS.get_ptr_mut(key) {
        // SAFETY: plain numbers; concurrent writers of the same flow write nearly the same. Read first, so that
        // the cache line is written once a second only.
        unsafe {
            if (*nat).seen_s != now_s {
                (*nat).seen_s = now_s;
            }
            if (*nat).closed != closed {
                (*nat).closed = closed;
            }
            if (*nat).kind != kind {
                (*nat).kind = kind;
            }
        }
    }
}

/// This CPU's scratch space. Not for the argument of a function that calls one which is verified by itself: that one
/// uses it too.
#[inline(always)]
pub fn scratch() -> Option<&'static mut maps::Scratch> {
    own(&maps::SCRATCH, 0)
}

/// This CPU's value.
#[inline(always)]
pub fn own<T>(map: &'static PerCpuArray<T>, index: u32) -> Option<&'static mut T> {
    // SAFETY: the value is this CPU's own, no program of packets is preempted by another, and none uses what it took before
    // a call that takes the same again as if nobody else had written to it.
    map.get_ptr_mut(index)
        .map(|pointer| unsafe { &mut *pointer })
}

/// The kernel's clock ticks, a hundred to a thousand a second. Costs a memory read.
#[inline(always)]
pub fn ticks() -> u32 {
    // SAFETY: takes nothing, returns a number.
    (unsafe { kernel::bpf_jiffies64() }) as u32
}

/// Seconds of the monotonic clock; the coarse one, which costs a memory read.
#[inline(always)]
pub fn now_s() -> u32 {
    // SAFETY: takes nothing, returns a number.
    (unsafe { kernel::bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// Nanoseconds of the boot-time clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { kernel::bpf_ktime_get_boot_ns() }
}

/// Adds a packet to this CPU's counter of an outcome.
#[inline(always)]
pub fn count(map: &'static PerCpuArray<VerdictCount>, index: u32, bytes: u32) {
    if let Some(counter) = map.get_ptr_mut(index) {
        // SAFETY: the value is this CPU's own, and the program is not preempted by itself.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}

/// Where to send a frame.
pub struct NextHop {
    /// Interface to leave by.
    pub ifindex: u32,
    /// Largest packet, without its Ethernet header.
    pub mtu: u32,
    /// The neighbour's MAC, then the interface's own, as in a frame.
    pub macs: [u32; 3],
}

/// Asks the kernel's routes and neighbours. `None`: no route, this node itself, or the neighbour is unknown yet.
#[inline(always)]
pub fn next_hop<F: Family>(
    ctx: &XdpContext,
    src: &F::Address,
    dst: &F::Address,
) -> Option<NextHop> {
    let (answer, found) = look_up::<F>(ctx, src, dst);
    if answer != 0 {
        return None;
    }
    Some(NextHop {
        ifindex: found.ifindex,
        // SAFETY: the kernel has filled in this member of the union; any number is valid.
        mtu: u32::from(unsafe { found.__bindgen_anon_1.mtu_result }),
        macs: packet::macs(found.dmac, found.smac),
    })
}

/// The interface that a packet to `dst` leaves by, even if the neighbour is unknown yet.
#[inline(always)]
pub fn route<F: Family>(packet: &impl Packet, src: &F::Address, dst: &F::Address) -> Option<u32> {
    /// `BPF_FIB_LKUP_RET_NO_NEIGH`.
    const NO_NEIGHBOUR: i64 = 7;
    match look_up::<F>(packet, src, dst) {
        (0 | NO_NEIGHBOUR, found) => Some(found.ifindex),
        _ => None,
    }
}

/// Asks the kernel's routes, as for a packet that came in where this one did.
#[inline(always)]
fn look_up<F: Family>(
    packet: &impl Packet,
    src: &F::Address,
    dst: &F::Address,
) -> (i64, bpf_fib_lookup) {
    const LENGTH: i32 = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: all zero is a valid value of this plain C structure, unions included.
    let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    F::ask(&mut query, src, dst);
    query.ifindex = packet.ifindex();
    // SAFETY: `query` outlives the call and its size is given.
    let answer = unsafe { kernel::bpf_fib_lookup(packet.context(), &raw mut query, LENGTH, 0) };
    (answer, query)
}

/// Adds (negative) or removes (positive) bytes in front of an XDP packet.
#[inline(always)]
pub fn adjust_head(ctx: &XdpContext, delta: i32) -> Result<(), DropReason> {
    // SAFETY: the context is the kernel's own; all packet addresses are derived again afterwards.
    if unsafe { kernel::bpf_xdp_adjust_head(ctx.ctx, delta) } == 0 {
        Ok(())
    } else {
        Err(DropReason::Kernel)
    }
}

/// Makes room for the outer headers behind the Ethernet header, and tells the kernel that this is a tunnel.
#[inline(always)]
pub fn grow(ctx: &TcContext) -> Result<(), DropReason> {
    const FLAGS: u64 = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
        | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
        | BPF_F_ADJ_ROOM_FIXED_GSO as u64
        | (ETH_LEN as u64) << 56;
    ctx.adjust_room(OVERHEAD as i32, BPF_ADJ_ROOM_MAC, FLAGS)
        .map_err(|_| DropReason::Kernel)
}

/// Removes `length` bytes behind the Ethernet header. False: the kernel refuses, or does not know the `flags`.
#[inline(always)]
pub fn shrink(ctx: &TcContext, length: usize, flags: u64) -> bool {
    let flags = BPF_F_ADJ_ROOM_FIXED_GSO as u64 | flags;
    ctx.adjust_room(-(length as i32), BPF_ADJ_ROOM_MAC, flags)
        .is_ok()
}

/// Largest packet, from its IP header on, that an interface takes; zero if there is no such interface.
#[inline(always)]
pub fn mtu(packet: &impl Packet, ifindex: u32) -> u32 {
    let mut mtu = 0;
    // SAFETY: the number outlives the call.
    unsafe { kernel::bpf_check_mtu(packet.context(), ifindex, &raw mut mtu, 0, 0) };
    mtu
}

/// Payload of each part, if the device is to cut the packet up; else zero.
#[inline(always)]
pub fn part(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands over a valid context.
    unsafe { (*ctx.skb.skb).gso_size }
}

/// Cuts off all but the first `length` bytes.
#[inline(always)]
pub fn trim(ctx: &TcContext, length: usize) -> Result<(), DropReason> {
    // SAFETY: takes plain numbers; packet addresses are derived afterwards.
    if unsafe { kernel::bpf_skb_change_tail(ctx.skb.skb, length as u32, 0) } != 0 {
        return Err(DropReason::Kernel);
    }
    Ok(())
}

/// Cuts off all but the first bytes behind the Ethernet header, and gives these.
#[inline(always)]
pub fn cut<const N: usize>(ctx: &TcContext) -> Result<[u8; N], DropReason> {
    trim(ctx, ETH_LEN + N)?;
    ctx.fetch::<N>(ETH_LEN).ok_or(DropReason::Kernel)
}

/// Sum of bytes, not folded; a multiple of four of them.
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> Result<u64, DropReason> {
    // SAFETY: the helper reads as many bytes as it is told.
    let sum = unsafe {
        kernel::bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            (&raw const *bytes).cast_mut().cast(),
            N as u32,
            0,
        )
    };
    u64::try_from(sum).map_err(|_| DropReason::Kernel)
}

/// Makes room for `length` bytes behind the Ethernet header.
#[inline(always)]
pub fn insert(ctx: &TcContext, length: usize) -> Result<(), DropReason> {
    ctx.adjust_room(length as i32, BPF_ADJ_ROOM_MAC, 0)
        .map_err(|_| DropReason::Kernel)
}

/// Puts an Ethernet header, all zero, in front of a packet that came by a device without.
#[inline(always)]
pub fn prepend_ethernet(ctx: &TcContext) -> Result<(), DropReason> {
    // SAFETY: takes plain numbers; packet addresses are derived afterwards.
    if unsafe { kernel::bpf_skb_change_head(ctx.skb.skb, ETH_LEN as u32, 0) } != 0 {
        return Err(DropReason::Kernel);
    }
    Ok(())
}

/// Goes on in another program, and does not come back: unless there is none, as before user space has put it there.
#[inline(always)]
pub fn continue_in(programs: &'static ProgramArray, ctx: &impl EbpfContext, index: u32) {
    // SAFETY: nothing is held here that would have to be dropped.
    unsafe { programs.tail_call(ctx, index) };
}

/// Marks the packet as meant for this host, whatever its destination MAC was.
#[inline(always)]
pub fn adopt(ctx: &TcContext) {
    /// `PACKET_HOST`.
    const HOST: u32 = 0;
    // Only refuses types that ingress packets do not have.
    let _ = ctx.change_type(HOST);
}

/// The tunnel a packet was taken out of by the kernel: VNI and the peer's address, as it stands in packets.
#[inline(always)]
pub fn tunnel(ctx: &TcContext) -> Option<(u32, u32)> {
    // SAFETY: all zero is a valid value of this plain C structure, unions included.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // SAFETY: `key` outlives the call and its size is given.
    let answer = unsafe {
        kernel::bpf_skb_get_tunnel_key(
            ctx.skb.skb,
            &raw mut key,
            size_of::<bpf_tunnel_key>() as u32,
            0,
        )
    };
    if answer != 0 {
        return None;
    }
    // SAFETY: without BPF_F_TUNINFO_IPV6 the kernel has filled in the IPv4 member.
    let remote = unsafe { key.__bindgen_anon_1.remote_ipv4 };
    Some((key.tunnel_id, remote.to_be()))
}

/// Tells the tunnel device where to send the packet: VNI, the peer's address and this node's, as they stand in packets.
#[inline(always)]
pub fn set_tunnel(ctx: &TcContext, vni: u32, peer: u32, own: u32) -> Result<(), DropReason> {
    // SAFETY: all zero is a valid value of this plain C structure, unions included.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = vni;
    key.tunnel_ttl = OUTER_TTL;
    key.__bindgen_anon_1.remote_ipv4 = u32::from_be(peer);
    key.__bindgen_anon_3.local_ipv4 = u32::from_be(own);
    // SAFETY: `key` outlives the call and its size is given.
    let answer = unsafe {
        kernel::bpf_skb_set_tunnel_key(
            ctx.skb.skb,
            &raw mut key,
            size_of::<bpf_tunnel_key>() as u32,
            u64::from(BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(DropReason::Kernel)
    }
}

/// Schedules delivery to the other end of a veth, in its namespace.
#[inline(always)]
pub fn to_peer(ifindex: u32) {
    // SAFETY: takes plain numbers; acts after the program returns.
    unsafe { kernel::bpf_redirect_peer(ifindex, 0) };
}

/// Schedules sending by `ifindex`, the kernel resolving the neighbour.
#[inline(always)]
pub fn to_neighbour(ifindex: u32) {
    // SAFETY: without parameters the kernel routes by the packet's own destination; acts after the program returns.
    unsafe { kernel::bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) };
}

/// Schedules sending by `ifindex` as the frame stands.
#[inline(always)]
pub fn to_egress(ifindex: u32) {
    // SAFETY: takes plain numbers; acts after the program returns.
    unsafe { kernel::bpf_redirect(ifindex, 0) };
}

/// Schedules reception on `ifindex` as the frame stands.
#[inline(always)]
pub fn to_ingress(ifindex: u32) {
    /// `BPF_F_INGRESS`.
    const INGRESS: u64 = 1;
    // SAFETY: takes plain numbers; acts after the program returns.
    unsafe { kernel::bpf_redirect(ifindex, INGRESS) };
}
