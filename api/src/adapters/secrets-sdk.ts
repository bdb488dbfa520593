/** What reading a secret needs of AWS's SDK, in one module that is loaded when it is first used; a bundle takes no more than this. */
export { GetSecretValueCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
