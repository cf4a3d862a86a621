// Version and build facts, for provenance and `doctor`.
#pragma once
namespace kvgrind {
const char* version();   // "0.1.0"
const char* git_hash();  // of the sources when configured; "+" at the end: with uncommitted changes; "unknown" outside git
}  // namespace kvgrind
