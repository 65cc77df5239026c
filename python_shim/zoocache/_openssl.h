/* OpenSSL as it is found at run time, for wheels: they must load where there is none, and bring none of
 * their own, as security updates are the system's. Included before zoocache.h, whose calls then go
 * through pointers; libssl.so, and libcrypto.so with it, is opened when somebody asks for it, for this
 * library alone. */
#include <dlfcn.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stddef.h>

/* What zoocache.h calls, by the names that 1.1.1 and 3 share: OpenSSL's macros are already resolved. */
#define ZCPY_OPENSSL(X)                                                                            \
    X(CRYPTO_clear_free) X(CRYPTO_free) X(CRYPTO_malloc) X(CRYPTO_memcmp) X(CRYPTO_zalloc)         \
    X(EVP_CIPHER_CTX_ctrl)                                                                         \
    X(EVP_CIPHER_CTX_free) X(EVP_CIPHER_CTX_new) X(EVP_CIPHER_CTX_set_padding)                     \
    X(EVP_CipherFinal_ex) X(EVP_CipherInit_ex) X(EVP_CipherUpdate) X(EVP_DigestFinal_ex)           \
    X(EVP_DigestInit_ex) X(EVP_DigestUpdate) X(EVP_EncryptInit_ex) X(EVP_EncryptUpdate)            \
    X(EVP_MD_CTX_copy_ex) X(EVP_MD_CTX_free) X(EVP_MD_CTX_new) X(EVP_aes_256_ctr)                  \
    X(EVP_aes_256_ecb) X(EVP_aes_256_gcm) X(EVP_sha256) X(OPENSSL_cleanse) X(RAND_bytes)           \
    X(BIO_clear_flags) X(BIO_free) X(BIO_get_data) X(BIO_meth_free) X(BIO_meth_new)                \
    X(BIO_meth_set_ctrl) X(BIO_meth_set_read) X(BIO_meth_set_write) X(BIO_new) X(BIO_set_data)     \
    X(BIO_set_flags) X(BIO_set_init) X(ERR_clear_error) X(OPENSSL_init_ssl)                        \
    X(SSL_CTX_check_private_key) X(SSL_CTX_ctrl) X(SSL_CTX_free)                                   \
    X(SSL_CTX_load_verify_locations) X(SSL_CTX_new) X(SSL_CTX_set_default_passwd_cb_userdata)      \
    X(SSL_CTX_set_default_verify_paths) X(SSL_CTX_set_options) X(SSL_CTX_set_verify)               \
    X(SSL_CTX_use_PrivateKey_file) X(SSL_CTX_use_certificate_chain_file) X(SSL_ctrl) X(SSL_free)   \
    X(SSL_get0_param) X(SSL_get_error) X(SSL_in_init) X(SSL_new) X(SSL_pending) X(SSL_read_ex)     \
    X(SSL_set1_host) X(SSL_set_bio) X(SSL_set_connect_state) X(SSL_set_hostflags) X(SSL_want)      \
    X(SSL_write_ex) X(TLS_client_method) X(X509_VERIFY_PARAM_set1_ip_asc)

#define ZCPY_POINTER(name) static __typeof__(&name) zcpy_##name;
ZCPY_OPENSSL(ZCPY_POINTER)

static bool openssl_resolve(void *lib) {
#define ZCPY_RESOLVE(name) && (*(void **)&zcpy_##name = dlsym(lib, #name))
    return lib ZCPY_OPENSSL(ZCPY_RESOLVE);
}

/* Whether there is an OpenSSL. It stays open; several threads may find the same one at once. */
static bool openssl_there(void) {
    static const char *const names[] = {"libssl.so.3", "libssl.so.1.1"};
    static bool there;
    for (size_t i = 0; !__atomic_load_n(&there, __ATOMIC_ACQUIRE) && i < 2; i++) {
        if (openssl_resolve(dlopen(names[i], RTLD_NOW | RTLD_LOCAL)))
            __atomic_store_n(&there, true, __ATOMIC_RELEASE);
    }
    return __atomic_load_n(&there, __ATOMIC_RELAXED);
}

#define CRYPTO_clear_free zcpy_CRYPTO_clear_free
#define CRYPTO_free zcpy_CRYPTO_free
#define CRYPTO_malloc zcpy_CRYPTO_malloc
#define CRYPTO_memcmp zcpy_CRYPTO_memcmp
#define CRYPTO_zalloc zcpy_CRYPTO_zalloc
#define EVP_CIPHER_CTX_ctrl zcpy_EVP_CIPHER_CTX_ctrl
#define EVP_CIPHER_CTX_free zcpy_EVP_CIPHER_CTX_free
#define EVP_CIPHER_CTX_new zcpy_EVP_CIPHER_CTX_new
#define EVP_CIPHER_CTX_set_padding zcpy_EVP_CIPHER_CTX_set_padding
#define EVP_CipherFinal_ex zcpy_EVP_CipherFinal_ex
#define EVP_CipherInit_ex zcpy_EVP_CipherInit_ex
#define EVP_CipherUpdate zcpy_EVP_CipherUpdate
#define EVP_DigestFinal_ex zcpy_EVP_DigestFinal_ex
#define EVP_DigestInit_ex zcpy_EVP_DigestInit_ex
#define EVP_DigestUpdate zcpy_EVP_DigestUpdate
#define EVP_EncryptInit_ex zcpy_EVP_EncryptInit_ex
#define EVP_EncryptUpdate zcpy_EVP_EncryptUpdate
#define EVP_MD_CTX_copy_ex zcpy_EVP_MD_CTX_copy_ex
#define EVP_MD_CTX_free zcpy_EVP_MD_CTX_free
#define EVP_MD_CTX_new zcpy_EVP_MD_CTX_new
#define EVP_aes_256_ctr zcpy_EVP_aes_256_ctr
#define EVP_aes_256_ecb zcpy_EVP_aes_256_ecb
#define EVP_aes_256_gcm zcpy_EVP_aes_256_gcm
#define EVP_sha256 zcpy_EVP_sha256
#define OPENSSL_cleanse zcpy_OPENSSL_cleanse
#define RAND_bytes zcpy_RAND_bytes
#define BIO_clear_flags zcpy_BIO_clear_flags
#define BIO_free zcpy_BIO_free
#define BIO_get_data zcpy_BIO_get_data
#define BIO_meth_new zcpy_BIO_meth_new
#define BIO_meth_set_ctrl zcpy_BIO_meth_set_ctrl
#define BIO_meth_set_read zcpy_BIO_meth_set_read
#define BIO_meth_set_write zcpy_BIO_meth_set_write
#define BIO_new zcpy_BIO_new
#define BIO_set_data zcpy_BIO_set_data
#define BIO_set_flags zcpy_BIO_set_flags
#define BIO_set_init zcpy_BIO_set_init
#define ERR_clear_error zcpy_ERR_clear_error
#define OPENSSL_init_ssl zcpy_OPENSSL_init_ssl
#define SSL_CTX_check_private_key zcpy_SSL_CTX_check_private_key
#define SSL_CTX_ctrl zcpy_SSL_CTX_ctrl
#define SSL_CTX_load_verify_locations zcpy_SSL_CTX_load_verify_locations
#define SSL_CTX_new zcpy_SSL_CTX_new
#define SSL_CTX_set_default_passwd_cb_userdata zcpy_SSL_CTX_set_default_passwd_cb_userdata
#define SSL_CTX_set_default_verify_paths zcpy_SSL_CTX_set_default_verify_paths
#define SSL_CTX_set_options zcpy_SSL_CTX_set_options
#define SSL_CTX_set_verify zcpy_SSL_CTX_set_verify
#define SSL_CTX_use_PrivateKey_file zcpy_SSL_CTX_use_PrivateKey_file
#define SSL_CTX_use_certificate_chain_file zcpy_SSL_CTX_use_certificate_chain_file
#define SSL_ctrl zcpy_SSL_ctrl
#define SSL_get0_param zcpy_SSL_get0_param
#define SSL_get_error zcpy_SSL_get_error
#define SSL_in_init zcpy_SSL_in_init
#define SSL_new zcpy_SSL_new
#define SSL_pending zcpy_SSL_pending
#define SSL_read_ex zcpy_SSL_read_ex
#define SSL_set1_host zcpy_SSL_set1_host
#define SSL_set_bio zcpy_SSL_set_bio
#define SSL_set_connect_state zcpy_SSL_set_connect_state
#define SSL_set_hostflags zcpy_SSL_set_hostflags
#define SSL_want zcpy_SSL_want
#define SSL_write_ex zcpy_SSL_write_ex
#define TLS_client_method zcpy_TLS_client_method
#define X509_VERIFY_PARAM_set1_ip_asc zcpy_X509_VERIFY_PARAM_set1_ip_asc
/* Also called with NULL, where there is no TLS. */
#define BIO_meth_free(method) ((method) ? zcpy_BIO_meth_free(method) : (void)0)
#define SSL_CTX_free(ctx) ((ctx) ? zcpy_SSL_CTX_free(ctx) : (void)0)
#define SSL_free(ssl) ((ssl) ? zcpy_SSL_free(ssl) : (void)0)
