/** Decoder of one container. In: an unknown JSON value. Out: a ContainerManifest, or invalidArgument with the path. Pure. */
import { RuntimeError, errorMessage, invalidArgument } from '#core';
import { type Decoder, arrayOf, decodeBoolean, decodeNonEmptyString, decodeString, fieldsOf, oneOf, parseReference, pathOf } from '#oci';
import {
  decodeContainerPort,
  decodeContainerSecurity,
  decodeDnsLabel,
  decodeEnv,
  decodeResources,
  decodeVolumeMount,
  defaultContainerSecurity,
  listItemsMax,
} from './decode-parts.ts';
import type { ContainerManifest, ImagePullPolicy } from './manifest-types.ts';
import { refuseOtherFields } from './schema.ts';

const argumentsMax = 10_000;
const supported = [
  'name',
  'image',
  'imagePullPolicy',
  'command',
  'args',
  'workingDir',
  'env',
  'resources',
  'securityContext',
  'volumeMounts',
  'ports',
  'stdin',
  'stdinOnce',
  'tty',
];

/** An image's name as people write it, or its id. */
export const decodeImage: Decoder<string> = (value, path) => {
  const text = decodeNonEmptyString(value, path);
  if (/^(sha256:)?[0-9a-f]{64}$/.test(text)) return text;
  try {
    parseReference(text);
  } catch (error) {
    if (error instanceof RuntimeError) throw invalidArgument(path, errorMessage(error));
    throw error;
  }
  return text;
};

/**
 * The policy where none is given: as in Kubernetes, Always for the tag `latest` and IfNotPresent for others; Never for an image id and
 * below `localhost/`, which is no registry but the name space of images made on this host.
 */
export function defaultPullPolicy(image: string): ImagePullPolicy {
  if (/^(sha256:)?[0-9a-f]{64}$/.test(image)) return 'Never';
  const reference = parseReference(image);
  if (reference.registry === 'localhost') return 'Never';
  return reference.tag === 'latest' ? 'Always' : 'IfNotPresent';
}

/** When to pull. */
export const decodePullPolicy: Decoder<ImagePullPolicy> = oneOf('pull policy', ['Always', 'IfNotPresent', 'Never']);

const decodeWorkingDir: Decoder<string> = (value, path) => {
  const text = decodeString(value, path);
  // The runtime verifies after chdir that the directory is inside the root; here only the obvious mistake is caught.
  if (text !== '' && !text.startsWith('/')) throw invalidArgument(path, `must be an absolute path, not ${JSON.stringify(text.slice(0, 200))}`);
  return text;
};

/** Decodes an item of `spec.containers` or, with `init`, of `spec.initContainers`. */
export function containerDecoder({ init }: { readonly init: boolean }): Decoder<ContainerManifest> {
  return (value, path) => {
    const fields = fieldsOf(value, path);
    refuseOtherFields(fields, 'Container', init ? [...supported, 'restartPolicy'] : supported, {
      terminationMessagePath: 'read the log instead',
      terminationMessagePolicy: 'read the log instead',
      restartPolicy: 'only the pod and its init containers have one',
    });
    const name = fields.required('name', decodeDnsLabel);
    const image = fields.required('image', decodeImage);
    const mounts = fields.withDefault('volumeMounts', arrayOf(decodeVolumeMount, listItemsMax), []);
    const security = fields.withDefault('securityContext', decodeContainerSecurity, defaultContainerSecurity);
    for (const [index, mount] of mounts.entries()) {
      const mountPath = `${pathOf(path, 'volumeMounts')}[${index}]`;
      if (mounts.findIndex((other) => other.mountPath === mount.mountPath) < index)
        throw invalidArgument(pathOf(mountPath, 'mountPath'), `${JSON.stringify(mount.mountPath)} is mounted twice`);
      // A mount that spreads to the host changes the host. Source: Kubernetes, "Mount propagation".
      if (mount.propagation === 'bidirectional' && !security.privileged)
        throw invalidArgument(pathOf(mountPath, 'mountPropagation'), 'Bidirectional needs securityContext.privileged: true');
    }
    return {
      name,
      image,
      imagePullPolicy: fields.optional('imagePullPolicy', decodePullPolicy) ?? defaultPullPolicy(image),
      sidecar: init && fields.optional('restartPolicy', oneOf('restart policy of an init container', ['Always'])) !== undefined,
      command: fields.withDefault('command', arrayOf(decodeString, argumentsMax), []),
      args: fields.withDefault('args', arrayOf(decodeString, argumentsMax), []),
      workingDir: fields.withDefault('workingDir', decodeWorkingDir, ''),
      env: fields.withDefault('env', arrayOf(decodeEnv, argumentsMax), []),
      resources: fields.withDefault('resources', decodeResources, {}),
      security,
      volumeMounts: mounts,
      ports: fields.withDefault('ports', arrayOf(decodeContainerPort, listItemsMax), []),
      stdin: fields.withDefault('stdin', decodeBoolean, false),
      stdinOnce: fields.withDefault('stdinOnce', decodeBoolean, false),
      tty: fields.withDefault('tty', decodeBoolean, false),
    };
  };
}
