//! The eBPF object, embedded at build time.

/// Bytes with the alignment an ELF reader wants.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/mesh-ebpf")));

/// The object; empty if the crate was built without one.
pub(crate) fn bytes() -> &'static [u8] {
    &OBJECT.0
}
