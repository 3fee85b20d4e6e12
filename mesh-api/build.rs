//! Generates the gRPC code from `proto/mesh.proto`; no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/mesh.proto");
    let descriptors = protox::compile(["proto/mesh.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .skip_debug(["mesh.v1.Handout"])
        .compile_fds(descriptors)?;
    Ok(())
}
