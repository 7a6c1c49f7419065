/** OCI documents as data: runtime-spec, image-spec, references, digests. Types, decoders, validators; no I/O. */
export * from './decode.ts';
export * from './resources.ts';
export * from './resources-decode.ts';
export * from './runtime-spec.ts';
export * from './runtime-spec-decode.ts';
export * from './runtime-spec-encode.ts';
export * from './digest.ts';
export * from './hooks.ts';
export * from './id-mappings.ts';
export * from './linux-features.ts';
export * from './reference.ts';
export * from './image-spec.ts';
export * from './scheduling.ts';
export * from './seccomp-decode.ts';
