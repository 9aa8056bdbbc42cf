//! Compiles the settings of the C library's allocator into the program.

fn main() {
    println!("cargo:rerun-if-changed=src/allocator.c");
    let is_glibc = std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    if is_glibc {
        // Nothing refers to what runs before `main`, so the linker is told to keep it.
        cc::Build::new()
            .file("src/allocator.c")
            .link_lib_modifier("+whole-archive")
            .compile("tarn_allocator");
    }
}
