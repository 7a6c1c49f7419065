/**
 * A specification of the Container Device Interface from its document. In: parsed JSON or YAML. Out: a CdiSpec, or invalidArgument with the document's path.
 * Every field must be known: a device that is only half understood is worse than one that is missing. Pure. Source: SPEC.md 1.1.0.
 */
import { invalidArgument, limits } from '#core';
import {
  type Decoder,
  type Fields,
  arrayOf,
  compact,
  decodeAbsolutePath,
  decodeEnvEntry,
  decodeHook,
  decodeNonEmptyString,
  decodeObject,
  decodeString,
  decodeUint32,
  fieldsOf,
  hookKinds,
  integerBetween,
  mapOf,
  oneOf,
  refuseUnknownFields,
} from '#oci';
import type { CdiDeviceNode, CdiEdits, CdiMount, CdiSpec } from './cdi-types.ts';

/** From the oldest to the newest. */
const versions = ['0.3.0', '0.4.0', '0.5.0', '0.6.0', '0.7.0', '0.8.0', '1.0.0', '1.1.0'] as const;
type Version = (typeof versions)[number];

/** Tells that something needs a version. */
type Need = (version: Version, what: string) => void;

const unsupportedEdits = ['intelRdt', 'netDevices'] as const;

/** Letters, digits and `._-`, beginning with a letter and ending with a letter or digit: vendors and classes. */
const kindPart = /^[A-Za-z](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$/;
const devicePart = /^[A-Za-z0-9](?:[A-Za-z0-9._:-]*[A-Za-z0-9])?$/;

/** `vendor/class` and the device's name; undefined where the text is no qualified name `vendor/class=name`. */
export function splitCdiName(text: string): { readonly kind: string; readonly name: string } | undefined {
  const match = /^([^/=]+)\/([^/=]+)=(.+)$/.exec(text);
  const [, vendor = '', kind = '', name = ''] = match ?? [];
  return kindPart.test(vendor) && kindPart.test(kind) && devicePart.test(name) && text.length <= 512 ? { kind: `${vendor}/${kind}`, name } : undefined;
}

const decodeNode =
  (need: Need): Decoder<CdiDeviceNode> =>
  (value, path) => {
    const fields = fieldsOf(value, path);
    refuseUnknownFields(fields, ['path', 'hostPath', 'type', 'major', 'minor', 'fileMode', 'permissions', 'uid', 'gid']);
    const hostPath = fields.optional('hostPath', (text, textPath) => (text === '' ? undefined : decodeAbsolutePath(text, textPath)));
    if (hostPath !== undefined) need('0.5.0', `${path}.hostPath`);
    const type = fields.optional('type', (word, wordPath) => (word === '' ? undefined : oneOf('device type', ['b', 'c', 'u', 'p'])(word, wordPath)));
    const permissions = fields.withDefault('permissions', decodeString, '');
    if (permissions !== 'none' && !/^[rwm]*$/.test(permissions))
      throw invalidArgument(`${path}.permissions`, `must be letters of "rwm" or "none", not ${JSON.stringify(permissions.slice(0, 20))}`);
    return compact({
      path: fields.required('path', decodeAbsolutePath),
      hostPath,
      type,
      major: fields.withDefault('major', decodeUint32, 0),
      minor: fields.withDefault('minor', decodeUint32, 0),
      fileMode: fields.optional('fileMode', integerBetween(0, 0o7777)),
      permissions: permissions === '' ? 'rwm' : permissions === 'none' ? '' : permissions,
      uid: fields.optional('uid', decodeUint32),
      gid: fields.optional('gid', decodeUint32),
    });
  };

const decodeMount =
  (need: Need): Decoder<CdiMount> =>
  (value, path) => {
    const fields = fieldsOf(value, path);
    refuseUnknownFields(fields, ['hostPath', 'containerPath', 'options', 'type']);
    const type = fields.optional('type', (text, textPath) => (text === '' ? undefined : decodeString(text, textPath)));
    if (type !== undefined) need('0.4.0', `${path}.type`);
    return compact({
      // A file system such as tmpfs has a name for its source and no path.
      hostPath: fields.required('hostPath', type === undefined || type === 'bind' ? decodeAbsolutePath : decodeNonEmptyString),
      containerPath: fields.required('containerPath', decodeAbsolutePath),
      type,
      options: fields.withDefault('options', arrayOf(decodeNonEmptyString, 256), []),
    });
  };

const decodeCdiHook: Decoder<CdiEdits['hooks'][number]> = (value, path) => {
  const fields = fieldsOf(value, path);
  refuseUnknownFields(fields, ['hookName', 'path', 'args', 'env', 'timeout']);
  return { kind: fields.required('hookName', oneOf('hook', hookKinds)), hook: decodeHook(value, path) };
};

/** intelRdt and netDevices are looked at for their version only. */
function checkUnsupported(fields: Fields, path: string, need: Need): readonly string[] {
  const rdt = fields.optional('intelRdt', decodeObject);
  if (rdt !== undefined) need('schemata' in rdt || rdt['enableMonitoring'] === true ? '1.1.0' : '0.7.0', `${path}.intelRdt`);
  const devices = fields.withDefault(
    'netDevices',
    arrayOf((item) => item, limits.cdiDevicesMax),
    [],
  );
  if (devices.length > 0) need('1.1.0', `${path}.netDevices`);
  return unsupportedEdits.filter((name) => (name === 'intelRdt' ? rdt !== undefined : devices.length > 0));
}

const noEdits: CdiEdits = { env: [], deviceNodes: [], mounts: [], hooks: [], additionalGids: [], unsupported: [] };

const decodeEdits =
  (need: Need): Decoder<CdiEdits> =>
  (value, path) => {
    const fields = fieldsOf(value, path);
    refuseUnknownFields(fields, ['env', 'deviceNodes', 'netDevices', 'mounts', 'hooks', 'intelRdt', 'additionalGids']);
    const additionalGids = fields.withDefault('additionalGids', arrayOf(decodeUint32, 1024), []);
    if (additionalGids.length > 0) need('0.7.0', `${path}.additionalGids`);
    return {
      env: fields.withDefault('env', arrayOf(decodeEnvEntry, 4096), []),
      deviceNodes: fields.withDefault('deviceNodes', arrayOf(decodeNode(need), 1024), []),
      mounts: fields.withDefault('mounts', arrayOf(decodeMount(need), 1024), []),
      hooks: fields.withDefault('hooks', arrayOf(decodeCdiHook, limits.hooksMax), []),
      additionalGids,
      unsupported: checkUnsupported(fields, path, need),
    };
  };

const isEmpty = (edits: CdiEdits): boolean => Object.values(edits).every((list: readonly unknown[]) => list.length === 0);

function checkAnnotations(fields: Fields, path: string, need: Need): void {
  const annotations = fields.withDefault('annotations', mapOf(decodeString), {});
  if (Object.keys(annotations).length > 0) need('0.6.0', path);
}

const decodeDevice =
  (need: Need): Decoder<CdiSpec['devices'][number]> =>
  (value, path) => {
    const fields = fieldsOf(value, path);
    refuseUnknownFields(fields, ['name', 'annotations', 'containerEdits']);
    const name = fields.required('name', decodeString);
    if (!devicePart.test(name) || name.length > 256) throw invalidArgument(`${path}.name`, `${JSON.stringify(name.slice(0, 80))} is not a device name`);
    if (/^[0-9]/.test(name)) need('0.5.0', `${path}.name beginning with a digit`);
    checkAnnotations(fields, `${path}.annotations`, need);
    const edits = fields.required('containerEdits', decodeEdits(need));
    if (isEmpty(edits)) throw invalidArgument(`${path}.containerEdits`, 'must not be empty');
    return { name, edits };
  };

function decodeKind(value: unknown, path: string, need: Need): string {
  const kind = decodeNonEmptyString(value, path);
  const [vendor = '', name = '', ...more] = kind.split('/');
  if (!kindPart.test(vendor) || !kindPart.test(name) || more.length > 0 || kind.length > 256)
    throw invalidArgument(path, `${JSON.stringify(kind.slice(0, 80))} is not of the form vendor/class`);
  if (name.includes('.')) need('0.6.0', `${path} with a dot in its class`);
  return kind;
}

/** The document as a specification. Throws invalidArgument such as `devices[0].containerEdits.hooks[1].hookName: unknown hook "x" (…)`. */
export function decodeCdiSpec(document: unknown): CdiSpec {
  const fields = fieldsOf(document, '');
  refuseUnknownFields(fields, ['cdiVersion', 'kind', 'annotations', 'devices', 'containerEdits']);
  const version = oneOf('version', versions)(fields.required('cdiVersion', decodeString).replace(/^v/, ''), 'cdiVersion');
  const need: Need = (needed, what) => {
    if (versions.indexOf(needed) > versions.indexOf(version)) throw invalidArgument('cdiVersion', `${what} needs version ${needed}, not ${version}`);
  };
  const kind = fields.required('kind', (value, path) => decodeKind(value, path, need));
  checkAnnotations(fields, 'annotations', need);
  const devices = fields.required('devices', arrayOf(decodeDevice(need), limits.cdiDevicesMax));
  if (devices.length === 0) throw invalidArgument('devices', 'must have at least one item');
  const names = new Set<string>();
  for (const [index, { name }] of devices.entries()) {
    if (names.has(name)) throw invalidArgument(`devices[${index}].name`, `${JSON.stringify(name)} is given twice`);
    names.add(name);
  }
  return { version, kind, edits: fields.withDefault('containerEdits', decodeEdits(need), noEdits), devices };
}
