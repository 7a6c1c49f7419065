/** Who a container's process runs as, asked by the shim while the root is there. In: the files of the root. Out: the rest of the plan. */
import { RuntimeError } from '#core';
import type { ContainerRequest } from '#pod';
import type { Plan } from '#plan';
import { type PlanContainerInput, planPayload, resolveIdentity } from '#runtime';
import type { AskedFile } from '#system';
import { userRequest } from './native-plans.ts';

/** Resolves the user inside the root, once, when the shim asks. */
export class IdentityAnswer {
  readonly #input: PlanContainerInput;
  readonly #request: ContainerRequest;
  #identity: ReturnType<typeof resolveIdentity> | undefined;

  constructor(input: PlanContainerInput, request: ContainerRequest) {
    this.#input = input;
    this.#request = request;
  }

  of(files: readonly AskedFile[]): Plan {
    const contentOf = (path: string): Uint8Array | undefined => files.find((file) => file.path === path && file.errno === 0)?.content;
    const [passwd, group] = [contentOf('/etc/passwd'), contentOf('/etc/group')];
    this.#identity = resolveIdentity(userRequest(this.#request.identity), { ...(passwd === undefined ? {} : { passwd }), ...(group === undefined ? {} : { group }) });
    return planPayload(this.#input, this.#identity);
  }

  get identity(): ReturnType<typeof resolveIdentity> {
    if (this.#identity === undefined) throw new RuntimeError('internal', 'bug: the setup did not ask who the process is');
    return this.#identity;
  }
}
