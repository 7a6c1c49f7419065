/** Sandbox classes. Native: our own interpreter on the host's kernel. */
export * from './layout.ts';
export * from './native.ts';
export { type ContainerMemory } from './native-sandbox.ts';
