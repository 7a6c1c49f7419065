/** The ImageService of CRI v1. In: decoded messages and the engine. Out: handlers. */
import type { AuthConfig, ImageService, ImageSpec } from '#gen/cri-v1_pb.js';
import { invalidArgument } from '#core';
import type { Engine, RegistryAuth } from '#pod';
import { succeedWhenAbsent } from './absent.ts';
import type { ServiceHandlers } from './adapter.ts';
import { requireText } from './decode-common.ts';
import { encodeFilesystemUsage, encodeImage, encodeInfo } from './encode.ts';

/** Handlers of all RPCs of the service but the streamed list. */
export function buildImageHandlers(engine: Engine): ServiceHandlers<typeof ImageService> {
  return {
    async listImages({ filter }) {
      const name = filter?.image?.image ?? '';
      if (name === '') return { images: (await engine.listImages()).map(encodeImage) };
      const image = await engine.imageStatus(name);
      return { images: image === undefined ? [] : [encodeImage(image)] };
    },
    async imageStatus({ image: spec, verbose }) {
      const name = imageName(spec);
      const image = await engine.imageStatus(name);
      // An absent image is an answer without image, not an error. Source: CRI, ImageStatus.
      if (image === undefined) return {};
      return { image: encodeImage(image), ...(verbose ? { info: encodeInfo(await engine.imageInfo(name)) } : {}) };
    },
    async pullImage({ image: spec, auth }, { signal }) {
      const name = imageName(spec);
      const credentials = decodeAuth('auth', auth, name);
      const image = await engine.pullImage(name, credentials === undefined ? {} : { auth: credentials }, signal);
      return { imageRef: image.id };
    },
    async removeImage({ image: spec }) {
      const name = imageName(spec);
      await succeedWhenAbsent(
        async () => engine.imageStatus(name),
        async () => engine.removeImage(name),
      );
      return {};
    },
    imageFsInfo: async () => ({ imageFilesystems: [encodeFilesystemUsage(await engine.imageUsage())] }),
  };
}

function imageName(spec: ImageSpec | undefined): string {
  return requireText('image.image', spec?.image ?? '');
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
