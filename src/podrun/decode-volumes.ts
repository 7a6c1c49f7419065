/**
 * Decoders of volumes and ConfigMap documents. In: unknown JSON values and the ConfigMaps of the same file. Out: typed volumes
 * with the files that a configMap volume will hold, or invalidArgument with the path. Pure.
 */
import { invalidArgument } from '#core';
import { type Decoder, type Fields, arrayOf, decodeAbsolutePath, decodeBoolean, decodeNonEmptyString, decodeString, fieldsOf, integerBetween, mapOf, oneOf, pathOf } from '#oci';
import { decodeImage, decodePullPolicy, defaultPullPolicy } from './decode-container.ts';
import { decodeDnsLabel, decodeDnsName, decodeRelativePath, listItemsMax } from './decode-parts.ts';
import type { ConfigMapFile, ConfigMapManifest, HostPathType, VolumeManifest } from './manifest-types.ts';
import { refuseOtherFields } from './schema.ts';

/** All files of one ConfigMap together. Source: Kubernetes, MaxSecretSize. */
const configMapBytesMax = 1024 * 1024;

const decodeBase64: Decoder<Uint8Array> = (value, path) => {
  const text = decodeString(value, path).replaceAll(/\s/g, '');
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0) throw invalidArgument(path, 'is not base64');
  return Buffer.from(text, 'base64');
};

// YAML text may carry NUL in a file's content, which no kernel call here sees as a string.
const decodeUtf8: Decoder<Uint8Array> = (value, path) => {
  if (typeof value !== 'string') return Buffer.from(decodeString(value, path));
  return Buffer.from(value, 'utf8');
};

/** A ConfigMap document whose kind is known already. `path` names the document, such as `ConfigMap`. */
export const decodeConfigMap: Decoder<ConfigMapManifest> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseOtherFields(fields, 'ConfigMap', ['apiVersion', 'kind', 'metadata', 'data', 'binaryData', 'immutable']);
  fields.required('apiVersion', oneOf('API version of a ConfigMap', ['v1']));
  fields.optional('immutable', decodeBoolean);
  const name = fields.required('metadata', (metadata, metadataPath) => {
    const inner = fieldsOf(metadata, metadataPath);
    refuseOtherFields(inner, 'ObjectMeta', ['name', 'namespace', 'labels', 'annotations']);
    return inner.required('name', decodeDnsName);
  });
  // SAFETY: an object without prototype, as mapOf gives it; only decoded files are put in.
  const files = Object.create(null) as Record<string, Uint8Array>;
  let bytes = 0;
  for (const [key, decoder] of [
    ['data', decodeUtf8],
    ['binaryData', decodeBase64],
  ] as const) {
    for (const [file, content] of Object.entries(fields.withDefault(key, mapOf(decoder), {}))) {
      const filePath = pathOf(pathOf(path, key), file);
      if (!/^[-._a-zA-Z0-9]{1,253}$/.test(file) || file === '.' || file.startsWith('..'))
        throw invalidArgument(filePath, 'a key may have letters, digits, "-", "_" and ".", and must not start with ".."');
      if (Object.hasOwn(files, file)) throw invalidArgument(filePath, 'is in data too');
      bytes += content.length;
      if (bytes > configMapBytesMax) throw invalidArgument(filePath, `the files together are larger than ${configMapBytesMax} bytes`);
      files[file] = content;
    }
  }
  return { name, files };
};

function decodeEmptyDir(name: string): Decoder<VolumeManifest> {
  return (value, path) => {
    const fields = fieldsOf(value, path);
    refuseOtherFields(fields, 'EmptyDir', ['medium'], { sizeLimit: 'nothing here would enforce it' });
    const medium = fields.withDefault('medium', oneOf('medium', ['', 'Memory']), '');
    return { kind: 'emptyDir', name, medium: medium === 'Memory' ? 'memory' : 'disk' };
  };
}

const hostPathTypes: readonly HostPathType[] = ['', 'DirectoryOrCreate', 'Directory', 'FileOrCreate', 'File', 'Socket', 'CharDevice', 'BlockDevice'];

function decodeHostPath(name: string): Decoder<VolumeManifest> {
  return (value, path) => {
    const fields = fieldsOf(value, path);
    refuseOtherFields(fields, 'HostPath', ['path', 'type']);
    return { kind: 'hostPath', name, path: fields.required('path', decodeAbsolutePath), type: fields.withDefault('type', oneOf('host path type', hostPathTypes), '') };
  };
}

const decodeFileMode = integerBetween(0, 0o777);

function decodeItems(fields: Fields, configMap: ConfigMapManifest, options: { readonly defaultMode: number; readonly optional: boolean }): readonly ConfigMapFile[] | undefined {
  return fields
    .optional(
      'items',
      arrayOf((value, path): ConfigMapFile | undefined => {
        const item = fieldsOf(value, path);
        refuseOtherFields(item, 'KeyToPath', ['key', 'path', 'mode']);
        const key = item.required('key', decodeNonEmptyString);
        const file = { path: item.required('path', decodeRelativePath), mode: item.withDefault('mode', decodeFileMode, options.defaultMode) };
        const content = Object.hasOwn(configMap.files, key) ? configMap.files[key] : undefined;
        if (content !== undefined) return { ...file, content };
        if (options.optional) return undefined;
        throw invalidArgument(pathOf(path, 'key'), `the ConfigMap ${JSON.stringify(configMap.name)} has no key ${JSON.stringify(key.slice(0, 80))}`);
      }, listItemsMax),
    )
    ?.filter((file) => file !== undefined);
}

/** Two files of one volume must not be the same path, nor one the directory of another. */
function refuseClashes(files: readonly ConfigMapFile[], path: string): void {
  const paths = files.map((file) => file.path).sort();
  for (const [index, file] of paths.entries()) {
    const clash = paths.find((other, at) => at !== index && (other === file || other.startsWith(`${file}/`)));
    if (clash !== undefined) throw invalidArgument(path, `${JSON.stringify(file)} and ${JSON.stringify(clash)} cannot both be files`);
  }
}

function decodeConfigMapVolume(name: string, configMaps: ReadonlyMap<string, ConfigMapManifest>): Decoder<VolumeManifest> {
  return (value, path) => {
    const fields = fieldsOf(value, path);
    refuseOtherFields(fields, 'ConfigMapVolume', ['name', 'items', 'defaultMode', 'optional']);
    const configMapName = fields.required('name', decodeDnsName);
    const defaultMode = fields.withDefault('defaultMode', decodeFileMode, 0o644);
    const optional = fields.withDefault('optional', decodeBoolean, false);
    const configMap = configMaps.get(configMapName);
    if (configMap === undefined && !optional) throw invalidArgument(pathOf(path, 'name'), `no ConfigMap ${JSON.stringify(configMapName)} in this file`);
    const found = configMap ?? { name: configMapName, files: {} };
    const files = decodeItems(fields, found, { defaultMode, optional }) ?? Object.entries(found.files).map(([file, content]) => ({ path: file, mode: defaultMode, content }));
    refuseClashes(files, pathOf(path, 'items'));
    return { kind: 'configMap', name, configMap: configMapName, files };
  };
}

function decodeImageVolume(name: string): Decoder<VolumeManifest> {
  return (value, path) => {
    const fields = fieldsOf(value, path);
    refuseOtherFields(fields, 'ImageVolume', ['reference', 'pullPolicy']);
    const reference = fields.required('reference', decodeImage);
    return { kind: 'image', name, reference, pullPolicy: fields.optional('pullPolicy', decodePullPolicy) ?? defaultPullPolicy(reference) };
  };
}

/** One entry of `spec.volumes`. A volume without a source is an emptyDir, as the API server fills it in. */
export function volumeDecoder(configMaps: ReadonlyMap<string, ConfigMapManifest>): Decoder<VolumeManifest> {
  return (value, path) => {
    const fields = fieldsOf(value, path);
    refuseOtherFields(fields, 'Volume', ['name', 'emptyDir', 'hostPath', 'configMap', 'image']);
    const name = fields.required('name', decodeDnsLabel);
    const sources = [
      fields.optional('emptyDir', decodeEmptyDir(name)),
      fields.optional('hostPath', decodeHostPath(name)),
      fields.optional('configMap', decodeConfigMapVolume(name, configMaps)),
      fields.optional('image', decodeImageVolume(name)),
    ].filter((source) => source !== undefined);
    if (sources.length > 1) throw invalidArgument(path, 'has more than one source');
    return sources[0] ?? { kind: 'emptyDir', name, medium: 'disk' };
  };
}
