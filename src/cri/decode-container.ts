/** ContainerConfig messages → the engine's container configuration. Errors as in decode-pod.ts. Pure. */
import type {
  Capability,
  ContainerConfig as ContainerConfigMessage,
  ContainerFilter as ContainerFilterMessage,
  ContainerMetadata as ContainerMetadataMessage,
  Device as DeviceMessage,
  ImageSpec,
  KeyValue,
  LinuxContainerSecurityContext,
  Mount as MountMessage,
} from '#gen/cri-v1_pb.js';
import { ContainerState as ContainerStateEnum, MountPropagation as MountPropagationEnum, Signal, SupplementalGroupsPolicy } from '#gen/cri-v1_pb.js';
import { invalidArgument } from '#core';
import type {
  Capabilities,
  ContainerConfig,
  ContainerFilter,
  ContainerMetadata,
  ContainerSecurity,
  ContainerState,
  Device,
  ImageMount,
  Mount,
  MountPropagation,
  MountRestriction,
} from '#pod';
import {
  decodeMap,
  decodeNamespaceOptions,
  decodeOptionalUserId,
  decodeResources,
  decodeSeccomp,
  decodeSupplementalGroups,
  decodeText,
  requireAbsolutePath,
  requireText,
} from './decode-common.ts';
import { decodeApparmor, decodeSelinux } from './decode-labels.ts';
import { decodeMountMappings } from './decode-userns.ts';

/** The configuration at `path`, such as `config`. */
export function decodeContainerConfig(path: string, message: ContainerConfigMessage | undefined): ContainerConfig {
  if (message === undefined) throw invalidArgument(path, 'required');
  refuseUnsupported(path, message);
  const resources = decodeResources(`${path}.linux.resources`, message.linux?.resources);
  const stopSignal = decodeStopSignal(`${path}.stop_signal`, message.stopSignal);
  const userSpecifiedImage = message.image?.userSpecifiedImage ?? '';
  const imageAnnotations = decodeMap(`${path}.image.annotations`, message.image?.annotations ?? {});
  return {
    metadata: decodeContainerMetadata(`${path}.metadata`, message.metadata),
    image: requireText(`${path}.image.image`, message.image?.image ?? ''),
    ...(userSpecifiedImage === '' ? {} : { userSpecifiedImage }),
    ...(Object.keys(imageAnnotations).length === 0 ? {} : { imageAnnotations }),
    command: message.command.map((text, index) => decodeText(`${path}.command[${index}]`, text)),
    args: message.args.map((text, index) => decodeText(`${path}.args[${index}]`, text)),
    workingDir: decodeText(`${path}.working_dir`, message.workingDir),
    env: message.envs.map((env, index) => decodeEnv(`${path}.envs[${index}]`, env)),
    mounts: message.mounts.map((mount, index) => decodeMount(`${path}.mounts[${index}]`, mount)),
    devices: message.devices.map((device, index) => decodeDevice(`${path}.devices[${index}]`, device)),
    ...(message.CDIDevices.length === 0 ? {} : { cdiDevices: message.CDIDevices.map(({ name }, index) => decodeText(`${path}.CDI_devices[${index}].name`, name)) }),
    labels: decodeMap(`${path}.labels`, message.labels),
    annotations: decodeMap(`${path}.annotations`, message.annotations),
    logPath: decodeLogPath(`${path}.log_path`, message.logPath),
    stdin: message.stdin,
    stdinOnce: message.stdinOnce,
    tty: message.tty,
    ...(resources === undefined ? {} : { resources }),
    security: decodeContainerSecurity(`${path}.linux.security_context`, message.linux?.securityContext),
    ...(stopSignal === undefined ? {} : { stopSignal }),
  };
}

function refuseUnsupported(path: string, message: ContainerConfigMessage): void {
  if (message.windows !== undefined) throw invalidArgument(`${path}.windows`, 'not on Linux');
}

function decodeContainerMetadata(path: string, metadata: ContainerMetadataMessage | undefined): ContainerMetadata {
  if (metadata === undefined) throw invalidArgument(path, 'required');
  return { name: requireText(`${path}.name`, metadata.name), attempt: metadata.attempt };
}

function decodeEnv(path: string, env: KeyValue): { readonly key: string; readonly value: string } {
  const key = requireText(`${path}.key`, env.key);
  if (key.includes('=')) throw invalidArgument(`${path}.key`, 'must not contain =');
  return { key, value: decodeText(`${path}.value`, decodeUtf8(`${path}.value`, env.value)) };
}

function decodeUtf8(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw invalidArgument(path, 'must be UTF-8');
  }
}

const propagations = new Map<MountPropagationEnum, MountPropagation>([
  [MountPropagationEnum.PROPAGATION_PRIVATE, 'private'],
  [MountPropagationEnum.PROPAGATION_HOST_TO_CONTAINER, 'hostToContainer'],
  [MountPropagationEnum.PROPAGATION_BIDIRECTIONAL, 'bidirectional'],
]);

function decodeMount(path: string, mount: MountMessage): Mount {
  const idMappings = decodeMountMappings(path, mount);
  const propagation = propagations.get(mount.propagation);
  if (propagation === undefined) throw invalidArgument(`${path}.propagation`, `unknown value ${String(mount.propagation)}`);
  // Source: CRI, Mount.recursive_read_only.
  if (mount.recursiveReadOnly && (propagation !== 'private' || (!mount.readonly && mount.image === undefined)))
    throw invalidArgument(`${path}.recursive_read_only`, 'needs readonly and private propagation');
  if (mount.image === undefined && mount.imageSubPath !== '') throw invalidArgument(`${path}.image_sub_path`, 'needs an image');
  const restrictions = mount.mountOptions.map((text, index) => decodeRestriction(`${path}.mount_options[${index}]`, text));
  return {
    containerPath: requireAbsolutePath(`${path}.container_path`, mount.containerPath),
    ...(mount.image === undefined
      ? { hostPath: requireAbsolutePath(`${path}.host_path`, mount.hostPath), readonly: mount.readonly }
      : { hostPath: mount.hostPath, readonly: true, image: decodeImageMount(path, mount.image, mount.imageSubPath) }),
    propagation,
    ...(restrictions.length === 0 ? {} : { restrictions }),
    ...(mount.recursiveReadOnly ? { recursiveReadonly: true } : {}),
    ...(idMappings === undefined ? {} : { idMappings }),
  };
}

/** The image of a volume. The kubelet gives the `image_ref` of its pull; whoever calls directly may give any name. */
function decodeImageMount(path: string, spec: ImageSpec, subPath: string): ImageMount {
  const userSpecifiedImage = decodeText(`${path}.image.user_specified_image`, spec.userSpecifiedImage);
  return {
    image: requireText(`${path}.image.image`, spec.image),
    ...(userSpecifiedImage === '' ? {} : { userSpecifiedImage }),
    subPath: decodeText(`${path}.image_sub_path`, subPath),
  };
}

const restrictions = ['noexec', 'nosuid', 'nodev'] as const;

function decodeRestriction(path: string, text: string): MountRestriction {
  const found = restrictions.find((word) => word === text);
  if (found === undefined) throw invalidArgument(path, `must be one of ${restrictions.join(', ')}, not ${JSON.stringify(text.slice(0, 40))}`);
  return found;
}

function decodeDevice(path: string, device: DeviceMessage): Device {
  if (!/^(?!.*(.).*\1)[rwm]{1,3}$/.test(device.permissions)) {
    throw invalidArgument(`${path}.permissions`, `must be one or more of r, w and m, not ${JSON.stringify(device.permissions.slice(0, 20))}`);
  }
  return {
    containerPath: requireAbsolutePath(`${path}.container_path`, device.containerPath),
    hostPath: requireAbsolutePath(`${path}.host_path`, device.hostPath),
    permissions: device.permissions,
  };
}

/** Relative to the pod's log directory and never above it. Source: hostile log paths, CVE-2025-0750. */
function decodeLogPath(path: string, text: string): string {
  if (text.startsWith('/') || text.split('/').includes('..')) throw invalidArgument(path, 'must be relative to log_directory and stay below it');
  return decodeText(path, text);
}

/** `SIGTERM` for SIGNAL_SIGTERM (the generated names lack the prefix), `SIGRTMIN+3` for SIGNAL_SIGRTMINPLUS3; undefined for the image's choice. */
function decodeStopSignal(path: string, signal: Signal): string | undefined {
  if (signal === Signal.RUNTIME_DEFAULT) return undefined;
  const name: string | undefined = Signal[signal];
  if (name === undefined) throw invalidArgument(path, `unknown value ${String(signal)}`);
  return name.replace('PLUS', '+').replace('MINUS', '-');
}

function decodeContainerSecurity(path: string, context: LinuxContainerSecurityContext | undefined): ContainerSecurity {
  const selinux = decodeSelinux(`${path}.selinux_options`, context?.selinuxOptions);
  const apparmor = decodeApparmor(path, context?.apparmor, context?.apparmorProfile ?? '');
  const capabilities = decodeCapabilities(`${path}.capabilities`, context?.capabilities);
  const seccomp = decodeSeccomp(path, context?.seccomp, context?.seccompProfilePath ?? '');
  return {
    ...(capabilities === undefined ? {} : { capabilities }),
    privileged: context?.privileged ?? false,
    namespaces: decodeNamespaceOptions(`${path}.namespace_options`, context?.namespaceOptions, 'container'),
    ...decodeIdentity(path, context),
    readonlyRootfs: context?.readonlyRootfs ?? false,
    supplementalGroups: decodeSupplementalGroups(`${path}.supplemental_groups`, context?.supplementalGroups ?? []),
    supplementalGroupsPolicy: decodeGroupsPolicy(`${path}.supplemental_groups_policy`, context?.supplementalGroupsPolicy ?? SupplementalGroupsPolicy.Merge),
    noNewPrivileges: context?.noNewPrivs ?? false,
    ...decodePathLists(path, context),
    ...(seccomp === undefined ? {} : { seccomp }),
    ...(apparmor === undefined ? {} : { apparmor }),
    ...(selinux === undefined ? {} : { selinux }),
  };
}

/** protobuf cannot tell an empty list from an absent one: within a security context empty means none, without one the defaults hold. */
function decodePathLists(path: string, context: LinuxContainerSecurityContext | undefined): Pick<ContainerSecurity, 'maskedPaths' | 'readonlyPaths'> {
  if (context === undefined) return {};
  return {
    maskedPaths: context.maskedPaths.map((text, index) => requireAbsolutePath(`${path}.masked_paths[${index}]`, text)),
    readonlyPaths: context.readonlyPaths.map((text, index) => requireAbsolutePath(`${path}.readonly_paths[${index}]`, text)),
  };
}

function decodeIdentity(path: string, context: LinuxContainerSecurityContext | undefined): Pick<ContainerSecurity, 'runAsUser' | 'runAsGroup' | 'runAsUsername'> {
  const runAsUser = decodeOptionalUserId(`${path}.run_as_user`, context?.runAsUser);
  const runAsGroup = decodeOptionalUserId(`${path}.run_as_group`, context?.runAsGroup);
  const runAsUsername = decodeText(`${path}.run_as_username`, context?.runAsUsername ?? '');
  if (runAsUser !== undefined && runAsUsername !== '') throw invalidArgument(`${path}.run_as_username`, 'excludes run_as_user');
  if (runAsGroup !== undefined && runAsUser === undefined && runAsUsername === '') throw invalidArgument(`${path}.run_as_group`, 'needs run_as_user or run_as_username');
  return {
    ...(runAsUser === undefined ? {} : { runAsUser }),
    ...(runAsGroup === undefined ? {} : { runAsGroup }),
    ...(runAsUsername === '' ? {} : { runAsUsername }),
  };
}

function decodeGroupsPolicy(path: string, policy: SupplementalGroupsPolicy): 'merge' | 'strict' {
  if (policy === SupplementalGroupsPolicy.Merge) return 'merge';
  if (policy === SupplementalGroupsPolicy.Strict) return 'strict';
  throw invalidArgument(path, `unknown value ${String(policy)}`);
}

function decodeCapabilities(path: string, capability: Capability | undefined): Capabilities | undefined {
  if (capability === undefined) return undefined;
  const list = (name: string, values: readonly string[]): string[] => values.map((value, index) => requireText(`${path}.${name}[${index}]`, value));
  return {
    add: list('add_capabilities', capability.addCapabilities),
    drop: list('drop_capabilities', capability.dropCapabilities),
    addAmbient: list('add_ambient_capabilities', capability.addAmbientCapabilities),
  };
}

const containerStates = new Map<ContainerStateEnum, ContainerState>([
  [ContainerStateEnum.CONTAINER_CREATED, 'created'],
  [ContainerStateEnum.CONTAINER_RUNNING, 'running'],
  [ContainerStateEnum.CONTAINER_EXITED, 'exited'],
  [ContainerStateEnum.CONTAINER_UNKNOWN, 'unknown'],
]);

/** The filter at `path`; an absent one matches everything. */
export function decodeContainerFilter(path: string, filter: ContainerFilterMessage | undefined): ContainerFilter {
  if (filter === undefined) return {};
  const state = filter.state === undefined ? undefined : containerStates.get(filter.state.state);
  if (filter.state !== undefined && state === undefined) throw invalidArgument(`${path}.state`, `unknown value ${String(filter.state.state)}`);
  return {
    ...(filter.id === '' ? {} : { id: filter.id }),
    ...(filter.podSandboxId === '' ? {} : { podSandboxId: filter.podSandboxId }),
    ...(state === undefined ? {} : { state }),
    ...(Object.keys(filter.labelSelector).length === 0 ? {} : { labels: { ...filter.labelSelector } }),
  };
}
