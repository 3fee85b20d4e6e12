//! The managers: Raft, the replicated store, allocator, scheduler, orchestrators, dispatcher and certificate authority.
