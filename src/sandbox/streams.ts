/** A shim's attachment as streams with backpressure in both directions. */
import type { SandboxStreams } from '#pod';
import type { ShimAttachment } from '#system';
import { exitCodeOf } from './wait-status.ts';

/** Output that waits for its reader before the connection is paused. */
const waitingBytesMax = 1024 * 1024;

/** `output` may be read once; while nobody reads, the connection is paused and the shim's bounds apply. */
export function streamsOf(attachment: ShimAttachment): SandboxStreams {
  const waiting: { readonly stream: 1 | 2; readonly data: Uint8Array }[] = [];
  let waitingBytes = 0;
  let isEnded = false;
  let wake: (() => void) | undefined;
  attachment.onOutput = (stream, data) => {
    waiting.push({ stream: stream === 'stdout' ? 1 : 2, data });
    waitingBytes += data.length;
    if (waitingBytes > waitingBytesMax) attachment.pause();
    wake?.();
  };
  const exited = attachment.ended
    .then(({ waitStatus }) => exitCodeOf(waitStatus))
    .finally(() => {
      isEnded = true;
      wake?.();
    });
  exited.catch(() => undefined);
  return {
    output: readOutput(),
    write: async (data) => attachment.write(data),
    closeInput: async () => attachment.closeInput(),
    exited,
    close: () => attachment.close(),
  };

  async function* readOutput(): AsyncGenerator<{ readonly stream: 1 | 2; readonly data: Uint8Array }, void, void> {
    for (;;) {
      const next = waiting.shift();
      if (next !== undefined) {
        waitingBytes -= next.data.length;
        if (waitingBytes <= waitingBytesMax / 2) attachment.resume();
        yield next;
      } else if (isEnded) {
        return;
      } else {
        const { promise, resolve } = Promise.withResolvers<void>();
        wake = resolve;
        await promise;
        wake = undefined;
      }
    }
  }
}
