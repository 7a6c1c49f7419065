/** The ImageService of CRI v1. In: decoded messages and the engine. Out: handlers. */
import type { AuthConfig, ImageFilter, ImageService, ImageSpec } from '#gen/cri-v1_pb.js';
import { ImageSchema } from '#gen/cri-v1_pb.js';
import { RuntimeError, errorCode, errorMessage, invalidArgument } from '#core';
import type { Engine, ImageSummary, RegistryAuth } from '#pod';
import { succeedWhenAbsent } from './absent.ts';
import type { ServiceHandlers } from './adapter.ts';
import { messageBatches } from './batches.ts';
import { decodeMap, decodeText, requireText } from './decode-common.ts';
import { encodeFilesystemUsage, encodeImage, encodeInfo } from './encode.ts';

/** Handlers of all RPCs of the service. */
export function buildImageHandlers(engine: Engine): ServiceHandlers<typeof ImageService> {
  return {
    listImages: async ({ filter }) => ({ images: (await findImages(engine, filter)).map((image) => encodeImage(image)) }),
    async *streamImages({ filter }) {
      const images = await findImages(engine, filter);
      for (const batch of messageBatches(
        ImageSchema,
        images.map((image) => encodeImage(image)),
      ))
        yield { images: batch };
    },
    async imageStatus({ image: spec, verbose }) {
      const name = await imageName(engine, spec);
      const image = await engine.imageStatus(name);
      // An absent image is an answer without image, not an error. Source: CRI, ImageStatus.
      if (image === undefined) return {};
      const annotations = decodeMap('image.annotations', spec?.annotations ?? {});
      return { image: encodeImage(image, annotations), ...(verbose ? { info: encodeInfo(await engine.imageInfo(image.id)) } : {}) };
    },
    async pullImage({ image: spec, auth }, { signal }) {
      const name = await imageName(engine, spec);
      const credentials = decodeAuth('auth', auth, name);
      try {
        const image = await engine.pullImage(name, credentials === undefined ? {} : { auth: credentials }, signal);
        return { imageRef: image.id };
      } catch (error) {
        throw asPullError(error);
      }
    },
    async removeImage({ image: spec }) {
      const name = await imageName(engine, spec);
      await succeedWhenAbsent(
        async () => engine.imageStatus(name),
        async () => engine.removeImage(name),
      );
      return {};
    },
    async imageFsInfo() {
      const { images, containers } = await engine.imageUsage();
      return { imageFilesystems: [encodeFilesystemUsage(images)], containerFilesystems: [encodeFilesystemUsage(containers)] };
    },
  };
}

/** All images, or the one that the filter names: by tag, digest, id or the beginning of one. */
async function findImages(engine: Engine, filter: ImageFilter | undefined): Promise<readonly ImageSummary[]> {
  const name = decodeText('filter.image.image', filter?.image?.image ?? '');
  if (name === '') return engine.listImages();
  const image = await engine.imageStatus(name);
  return image === undefined ? [] : [image];
}

/** The image's name in a request. One store serves every runtime handler, but an unknown one is refused. Source: CRI, ImageSpec.runtime_handler. */
async function imageName(engine: Engine, spec: ImageSpec | undefined): Promise<string> {
  const name = requireText('image.image', spec?.image ?? '');
  const handler = spec?.runtimeHandler ?? '';
  if (handler === '') return name;
  const { runtimeHandlers, defaultRuntimeHandler } = await engine.status();
  if (handler !== defaultRuntimeHandler && !runtimeHandlers.some((known) => known.name === handler))
    throw new RuntimeError('notFound', `image.runtime_handler: runtime handler ${JSON.stringify(handler.slice(0, 200))}: not configured`);
  return name;
}

/** A registry that cannot be reached, in the words that the kubelet looks for at the beginning. Source: k8s.io/cri-api, pkg/errors. */
function asPullError(error: unknown): unknown {
  if (errorCode(error) !== 'unavailable') return error;
  return new RuntimeError('unavailable', `RegistryUnavailable: ${errorMessage(error)}`, { cause: error });
}

/** Credentials for the registry of `imageReference`; undefined where there are none, or where they are meant for another host. Never in an error text. */
export function decodeAuth(path: string, auth: AuthConfig | undefined, imageReference: string): RegistryAuth | undefined {
  if (auth === undefined) return undefined;
  if (auth.serverAddress !== '' && registryHost(auth.serverAddress.replace(/^https?:\/\//, '')) !== registryHost(imageReference)) return undefined;
  const pair = auth.username === '' && auth.auth !== '' ? decodeBasicAuth(`${path}.auth`, auth.auth) : { username: auth.username, password: auth.password };
  const credentials: RegistryAuth = {
    ...(pair.username === '' ? {} : pair),
    ...(auth.identityToken === '' ? {} : { identityToken: auth.identityToken }),
    ...(auth.registryToken === '' ? {} : { registryToken: auth.registryToken }),
  };
  return Object.keys(credentials).length === 0 ? undefined : credentials;
}

function decodeBasicAuth(path: string, encoded: string): { readonly username: string; readonly password: string } {
  const text = Buffer.from(encoded, 'base64').toString();
  const colon = text.indexOf(':');
  if (colon < 1) throw invalidArgument(path, 'must be base64 of username:password');
  // Some tools pad the pair with NUL bytes.
  return { username: text.slice(0, colon), password: text.slice(colon + 1).replace(/\0+$/, '') };
}

const dockerHubHosts: ReadonlySet<string> = new Set(['docker.io', 'index.docker.io', 'registry-1.docker.io']);

/** Host (and port) of a reference or address; a first part that cannot be a host means Docker Hub, as in image references. */
function registryHost(text: string): string {
  const first = text.split('/')[0] ?? '';
  const isHost = text.includes('/') ? /[.:]/.test(first) || first === 'localhost' : /\.|^localhost|:[0-9]+$/.test(first);
  const host = isHost ? first.toLowerCase() : 'docker.io';
  return dockerHubHosts.has(host) ? 'docker.io' : host;
}
