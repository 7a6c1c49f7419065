/**
 * The Container Device Interface as types: what a vendor's specification says, and what a container is to get. In: nothing. Out: types.
 * Source: github.com/cncf-tags/container-device-interface, SPEC.md 1.1.0.
 */
import type { RuntimeError } from '#core';
import type { HookKind, SpecHook } from '#oci';

/** A device node to make in the container. */
export interface CdiDeviceNode {
  readonly path: string;
  /** Where it is on the host; absent: at the same path. */
  readonly hostPath?: string;
  /** Absent like `major` and `minor`: those of the host's node. */
  readonly type?: 'b' | 'c' | 'u' | 'p';
  readonly major: number;
  readonly minor: number;
  readonly fileMode?: number;
  /** Letters of `rwm`; empty: none. */
  readonly permissions: string;
  readonly uid?: number;
  readonly gid?: number;
}

/** A mount to make in the container. */
export interface CdiMount {
  readonly hostPath: string;
  readonly containerPath: string;
  readonly type?: string;
  readonly options: readonly string[];
}

/** What is to be added to a container's specification. */
export interface CdiEdits {
  readonly env: readonly string[];
  readonly deviceNodes: readonly CdiDeviceNode[];
  readonly mounts: readonly CdiMount[];
  readonly hooks: readonly { readonly kind: HookKind; readonly hook: SpecHook }[];
  readonly additionalGids: readonly number[];
  /** Names of further edits that are present and that nobody here implements: `intelRdt`, `netDevices`. */
  readonly unsupported: readonly string[];
}

/** One specification: the devices of a kind such as `vendor.com/gpu`. */
export interface CdiSpec {
  readonly version: string;
  readonly kind: string;
  /** For every container that gets at least one of the devices. */
  readonly edits: CdiEdits;
  readonly devices: readonly { readonly name: string; readonly edits: CdiEdits }[];
}

/** A file of a directory of specifications, read or not. A higher priority wins where two define one device. */
export type CdiFile = { readonly path: string; readonly priority: number } & ({ readonly spec: CdiSpec } | { readonly error: RuntimeError });

/** Edits with where they come from, for messages. */
export interface CdiInjection {
  /** Such as `vendor.com/gpu=0`, or the kind alone. */
  readonly device: string;
  readonly path: string;
  readonly edits: CdiEdits;
}
