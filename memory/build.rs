//! Compiles the calls of the C library that Rust has no safe name for.

fn main() {
    println!("cargo:rerun-if-changed=src/memory.c");
    let is_linux = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if is_linux {
        // Nothing refers to what runs before `main`, so the linker is told to keep it.
        cc::Build::new()
            .file("src/memory.c")
            .warnings_into_errors(true)
            .link_lib_modifier("+whole-archive")
            .compile("tarn_memory");
    }
}
