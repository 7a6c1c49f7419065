/**
 * What an engine is told by its environment, the same for a daemon and for a command that is its own engine. In: variables named
 * `BERTH_…`. Out: settings, every one with a default. Pure; a value that is none of the allowed ones is refused by its name.
 */
import { invalidArgument } from '#core';
import type { ImageVolumePolicy } from '#pod';

/** Settings of an engine that owns its state directory. */
export interface EngineSettings {
  /** Directories in containerd's or docker's `certs.d` layout, in the order of asking. Absolute. */
  readonly certsDirs: readonly string[];
  /** Blobs of layers stay after they are unpacked. */
  readonly keepBlobs: boolean;
  /** Layers of the nondistributable media types are taken. */
  readonly allowForeignLayers: boolean;
  /** What becomes of the volumes that images declare. */
  readonly imageVolumes: ImageVolumePolicy;
}

const defaultCertsDirs = ['/etc/berth/certs.d', '/etc/containerd/certs.d', '/etc/docker/certs.d'];

function decodeSwitch(name: string, value: string | undefined, absent: boolean): boolean {
  if (value === undefined || value === '') return absent;
  if (value !== '0' && value !== '1') throw invalidArgument(name, `must be 0 or 1, not ${JSON.stringify(value.slice(0, 100))}`);
  return value === '1';
}

function decodeDirectories(name: string, value: string | undefined, absent: readonly string[]): readonly string[] {
  if (value === undefined || value === '') return absent;
  const directories = value.split(':');
  const relative = directories.find((directory) => !directory.startsWith('/'));
  if (relative !== undefined) throw invalidArgument(name, `must be absolute paths with ":" between them, not ${JSON.stringify(relative.slice(0, 100))}`);
  return directories;
}

/** One of the words; the first where nothing is said. */
function decodeWord<const Words extends readonly [string, ...string[]]>(name: string, value: string | undefined, words: Words): Words[number] {
  if (value === undefined || value === '') return words[0];
  const found = words.find((word) => word === value);
  if (found === undefined) throw invalidArgument(name, `must be one of ${words.join(', ')}, not ${JSON.stringify(value.slice(0, 100))}`);
  return found;
}

/** Reads the variables. Throws invalidArgument `NAME: cause`. An empty value counts as none. */
export function decodeEngineSettings(env: Readonly<Record<string, string | undefined>>): EngineSettings {
  return {
    certsDirs: decodeDirectories('BERTH_CERTS_DIRS', env['BERTH_CERTS_DIRS'], defaultCertsDirs),
    keepBlobs: decodeSwitch('BERTH_KEEP_BLOBS', env['BERTH_KEEP_BLOBS'], true),
    allowForeignLayers: decodeSwitch('BERTH_FOREIGN_LAYERS', env['BERTH_FOREIGN_LAYERS'], false),
    imageVolumes: decodeWord('BERTH_IMAGE_VOLUMES', env['BERTH_IMAGE_VOLUMES'], ['anonymous', 'tmpfs', 'ignore']),
  };
}
